"""Integration tests by journey: base, lock, build, testing, native, docker, publish.

`make test` runs what is small: cpu-2.6 (130 MB), under emulation where the machine is no arm64; images of kilobytes; a
real registry and a real Docker Engine. `make test-all` adds the tests marked `big`. What a big test shows of the CUDA
images, these show small:

    both engines make the same image          docker/test_docker_build.py, with cpu-2.6
    the probes, in the sandbox and in Docker  testing/test_main_job.py, with the one report of cpu-2.6;
                                              docker/test_docker_runtime.py, with a torch that only answers
    built for CUDA, claims that do not hold   testing/test_sandbox_probes.py, with a torch that only answers
    only missing layers move                  docker/test_docker_load.py, with images of kilobytes
    push, pull, promote, verify               publish/, with images of kilobytes and with cpu-2.6
    the pipeline's words, one after another   publish/test_pipeline.py, with cpu-2.6 and the one report of it
    kills, full disks, gzip, vanished debs    build/test_build.py, with a tiny image (tests/support/tiny.py)
    pip keeps torch                           testing/test_constraints.py, with the locked pip on this machine
    what every release of torch says inside   lock/test_torch_releases.py, with the releases of matrix.yaml
    a clone and Docker alone                  docker/test_bake_clone.py, with a tiny image
    a Docker over ssh is given cpu-2.6        docker/test_docker_context.py, with images of kilobytes
    both architectures under one tag          publish/test_publish.py, publish/test_gate.py
    the devel flavour compiles                base/test_base_debian.py, on this machine's architecture
    the same bytes on any machine             build/test_build.py, with cpu-2.6
    models move between images                testing/test_portability.py, from cpu-2.6 to itself
    the native environment on a Mac           tests/unit: test_native.py, test_runtime_native.py, test_probes_mps.py
"""
