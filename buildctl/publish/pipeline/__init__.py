"""Publishing in several jobs with a registry between them: what one job hands on to the next.

Builders push by digest and write down what they pushed (`handover`); `promote` believes that, not the registry. What a
CI service attests about a run is read in `attestation`.
"""
