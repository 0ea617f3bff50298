from __future__ import annotations

import pytest

from buildctl.artifacts.debian.certificates import certificate_entries, der_of, subject_hash
from buildctl.ground.errors import ArtifactError
from buildctl.oci.entry import Bytes, Kind

# Subject: C=DE, O="  Ex  AMPLE  Ünï", OU=b + CN="Test Root" (one set), emailAddress=A@Example.invalid.
# `openssl x509 -hash` says 2ba525e3: spaces collapse, letters fold, sets are sorted, strings become UTF-8.
PEM = b"""\
-----BEGIN CERTIFICATE-----
MIICLDCCAdGgAwIBAgIUPNWXtIioN//QDJ9kM2IcBsCBPYowCgYIKoZIzj0EAwIw
ajELMAkGA1UEBhMCREUxGzAZBgNVBAoMEiAgRXggIEFNUExFICDDnG7DrzEcMAgG
A1UECwwBYjAQBgNVBAMMCVRlc3QgUm9vdDEgMB4GCSqGSIb3DQEJARYRQUBFeGFt
cGxlLmludmFsaWQwIBcNMjYxMTIyMTYzODU0WhgPMjEyNjEwMjkxNjM4NTRaMGox
CzAJBgNVBAYTAkRFMRswGQYDVQQKDBIgIEV4ICBBTVBMRSAgw5xuw68xHDAIBgNV
BAsMAWIwEAYDVQQDDAlUZXN0IFJvb3QxIDAeBgkqhkiG9w0BCQEWEUFARXhhbXBs
ZS5pbnZhbGlkMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEKvvzGVRkgt2/Ucuu
v6Ni89BI4EGuPS4kRn2tFgtd17peIru3VEMIgq0OD1Ob+CVeA/yzTvdGGpwci6Gp
H+0WTaNTMFEwHQYDVR0OBBYEFEUvxDB6oG5nfpNscZu40pQ1qG/FMB8GA1UdIwQY
MBaAFEUvxDB6oG5nfpNscZu40pQ1qG/FMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZI
zj0EAwIDSQAwRgIhALHqS1ZjtC77qdF44FCunkKwyK/b7RtVefl272Kse9fbAiEA
r47cRm+4h5JXOaAZJceN2uaysIcxFPoSDViM6xVWhZ8=
-----END CERTIFICATE-----
"""


def test_the_hash_is_openssls() -> None:
    assert subject_hash(der_of(PEM, "a")) == 0x2BA525E3


def test_bundle_configuration_and_links() -> None:
    entries = {e.path: e for e in certificate_entries({"mozilla/B_(x),_y z.crt": PEM.rstrip(), "mozilla/A.crt": PEM})}
    bundle, conf = entries["etc/ssl/certs/ca-certificates.crt"].body, entries["etc/ca-certificates.conf"].body
    assert isinstance(bundle, Bytes)
    assert isinstance(conf, Bytes)
    assert bundle.data == PEM + PEM
    assert conf.data.decode().endswith("deselected.\n#\nmozilla/A.crt\nmozilla/B_(x),_y z.crt\n")
    links = {path: e.target for path, e in entries.items() if e.kind is Kind.SYMLINK}
    assert links == {
        "etc/ssl/certs/A.pem": "/usr/share/ca-certificates/mozilla/A.crt",
        "etc/ssl/certs/B_=x=__y_z.pem": "/usr/share/ca-certificates/mozilla/B_(x),_y z.crt",
        "etc/ssl/certs/2ba525e3.0": "A.pem",
        "etc/ssl/certs/2ba525e3.1": "B_=x=__y_z.pem",
    }


@pytest.mark.parametrize("data", [b"", PEM[:200], b"-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"mozilla/A\.crt: "):
        list(certificate_entries({"mozilla/A.crt": data}))
