# `ask` and `OPTIONS` come from ask.py, which is put in front; import time counts, so no pathlib.
# ruff: noqa: F821, PLW1510, PTH108, PTH109, PTH112, PTH113, PTH116, PTH118, PTH120, PTH123, PTH208
"""Runs inside the image without importing torch: packages, scripts, files, surroundings. Standard library only."""

import os
import re
import shutil
import subprocess
import sys

# Libraries of CUDA and NVIDIA, whoever packaged them; libcurl, libcups and libnvme are none.
NVIDIA_LIBRARY = re.compile(
    r"lib(cu(bl|da|dnn|dss|fft|file|inj|pti|rand|solver|sparse|tensor)|nv(blas|comp|fatbin|idia|jit|jpeg|ml|perf|ptx|rtc"
    r"|shmem|tools|toolsext|vm)|nccl|npp|torch_cuda|c10_cuda|caffe2_nvrtc|torchaudio_cuda)",
    re.IGNORECASE,
)
PSEUDO = ("/proc", "/sys", "/dev")


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions():
    """[name, version, folder] of everything installed; the same name twice is two entries."""
    import importlib.metadata

    found = []
    for distribution in importlib.metadata.distributions():
        # not distribution.metadata, which parses whole READMEs: 20 s under emulation
        header = (distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "").partition("\n\n")[0]
        fields = dict(line.partition(": ")[::2] for line in reversed(header.splitlines()))
        where = str(getattr(distribution, "_path", ""))
        found.append([normal(fields.get("Name", "?")), fields.get("Version", "?"), os.path.dirname(where)])
    return sorted(found)


PIP = """
import sys
from pip._internal.cli.main import main
wanted = sys.argv.pop(1).split(",")
common = ["--disable-pip-version-check", "--no-color"]
for command in (
    ["check"],
    ["install", "--no-index", "--no-cache-dir", *sys.argv[1:]],
    ["uninstall", "--yes", "buildctl-probe"],
):
    if command[0] not in wanted:
        continue
    if command[0] == "uninstall":
        import subprocess
        code = subprocess.call([sys.executable, "-c", "import buildctl_probe as p; print(p.ANSWER, p.__file__)"])
        print(f"=== used {code}", flush=True)
    code = main([command[0], *common, *command[1:]])
    print(f"=== {command[0]} {code}", flush=True)
"""


def pip():
    """pip check, then a wheel made here: installed offline by the default user, used, and removed. Or what is wanted.

    One interpreter for all of it, because under emulation each start of pip takes many seconds.
    """
    import tempfile

    folder = tempfile.mkdtemp()
    wanted = OPTIONS.get("pip", ["check", "install", "uninstall"])
    # where all files seem to be ours, pip would not find by itself that it may not write to the system's packages
    where = [] if OPTIONS.get("ownership", True) else ["--user"]
    done = subprocess.run(
        [sys.executable, "-c", PIP, ",".join(wanted), make_wheel(folder), *where],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    shutil.rmtree(folder)
    answers, text = {}, []
    for line in done.stdout.splitlines():
        if line.startswith("=== "):
            _, name, code = line.split()
            answers[name] = {"code": int(code), "text": "\n".join(text)[-2000:]}
            text = []
        else:
            text.append(line)
    if text or done.returncode:
        answers["rest"] = {"code": done.returncode, "text": "\n".join(text)[-2000:]}
    if "check" in answers:
        unfit = re.findall(r"^(\S+) \S+ is not supported on", answers["check"]["text"], re.MULTILINE)
        answers["check"]["tags"] = tags_of(unfit)
    return answers


def tags_of(names):
    """What installed WHEEL files say, which is what `pip check` goes by, and not always what the file was called."""
    import importlib.metadata

    texts = {name: importlib.metadata.distribution(name).read_text("WHEEL") or "" for name in names}
    return {name: re.findall(r"^Tag: (\S+)", text, re.MULTILINE) for name, text in texts.items()}


NEWER = """
import os
import sys
from pip._internal.cli.main import main
argv = ["install", "--dry-run", "--no-index", "--no-cache-dir", "--disable-pip-version-check", "--no-color"]
print("=== kept", main([*argv, *sys.argv[1:]]), flush=True)
os.environ["PIP_CONSTRAINT"] = ""
print("=== changed", main([*argv, *sys.argv[1:]]), flush=True)
"""


def kept():
    """The constraints file, and what pip (and uv, where there is one) do with a package that wants a newer torch."""
    import tempfile

    variables = {name: os.environ.get(name, "") for name in ("PIP_CONSTRAINT", "UV_CONSTRAINT")}
    text = ""
    if os.path.isfile(variables["PIP_CONSTRAINT"]):
        with open(variables["PIP_CONSTRAINT"]) as file:
            text = file.read()
    folder = tempfile.mkdtemp()
    make_wheel(folder, "torch", "999.0")
    make_wheel(folder, "buildctl_newer", "1.0", requires="torch>=999")
    asked = ["--find-links", folder, "buildctl-newer"]
    said = output([sys.executable, "-c", NEWER, *asked])[1]
    codes = dict(re.findall(r"^=== (kept|changed) (\d+)$", said, re.MULTILINE))
    answers = {"variables": variables, "text": text, "pip": {name: int(code) for name, code in codes.items()}}
    answers["said"] = said[-2000:]
    if shutil.which("uv"):
        uv = ["uv", "pip", "install", "--dry-run", "--no-index", "--no-cache", "--python", sys.executable]
        uv += ["--break-system-packages", *asked]
        answers["uv"] = {"kept": output(uv)[0], "changed": output(uv, UV_CONSTRAINT="")[0]}
    shutil.rmtree(folder)
    return answers


def output(argv, **env):
    done = subprocess.run(
        argv,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stdout


def make_wheel(folder, name="buildctl_probe", version="1.0", requires=""):
    import base64
    import hashlib
    import zipfile

    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": "ANSWER = 42\ndef main():\n    print(ANSWER)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: buildctl\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name.replace('_', '-')} = {name}:main\n",
    }
    rows = []
    for file, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{file},sha256={digest},{len(text)}\n")
    files[f"{info}/RECORD"] = "".join(rows) + f"{info}/RECORD,,\n"
    path = os.path.join(folder, f"{name}-{version}-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def console_scripts():
    """Scripts that distributions declare: which are not on PATH, and which name an interpreter that is not there."""
    import importlib.metadata

    declared = {
        point.name
        for distribution in importlib.metadata.distributions()
        for point in distribution.entry_points
        if point.group == "console_scripts"
    }
    found = {name: shutil.which(name) for name in sorted(declared)}
    missing = [name for name, path in found.items() if path is None]
    broken = [f"{path}: {line}" for path in found.values() if path and (line := broken_shebang(path))]
    pythons = {name: shutil.which(name) for name in ("python", "python3")}
    return {"declared": sorted(declared), "missing": missing, "broken": broken, "pythons": pythons}


def broken_shebang(path):
    with open(path, "rb") as file:
        line = file.readline(512)
    if not line.startswith(b"#!"):
        return None
    words = line[2:].decode(errors="replace").split()
    works = bool(words) and os.access(words[0], os.X_OK)
    if works and words[0].endswith("/env"):
        works = len(words) > 1 and shutil.which(words[-1]) is not None
    return None if works else line.decode(errors="replace").strip()


def nvidia():
    """Everything of NVIDIA's or of CUDA builds that lies in the image, wherever, and in its environment."""
    libraries = []
    for folder, folders, files in os.walk("/"):
        if folder == "/":
            folders[:] = [name for name in folders if f"/{name}" not in PSEUDO]
        libraries += [os.path.join(folder, name) for name in files if NVIDIA_LIBRARY.match(name) and ".so" in name]
    variables = sorted(name for name in os.environ if name.startswith(("NVIDIA_", "CUDA_")))
    return {"libraries": sorted(libraries)[:20], "library_count": len(libraries), "variables": variables}


def locale():
    import locale as module

    wanted = os.environ.get("LC_ALL") or os.environ.get("LANG") or ""
    module.setlocale(module.LC_ALL, "")
    return {
        "environment": wanted,
        "codeset": module.nl_langinfo(module.CODESET),
        "files": sys.getfilesystemencoding(),
        "stdout": sys.stdout.encoding,
    }


def certificates():
    import ssl

    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    hashed = []
    if paths.capath and os.path.isdir(paths.capath):
        hashed = [name for name in os.listdir(paths.capath) if re.fullmatch(r"[0-9a-f]{8}\.\d+", name)]
    return {"loaded": context.cert_store_stats()["x509_ca"], "hashed": len(hashed), "cafile": paths.cafile}


# Each is an extension of its own, which needs a library of the base's; Debian ships some apart from Python.
STANDARD = "bz2 ctypes curses dbm.gnu dbm.ndbm hashlib lzma readline sqlite3 ssl uuid zlib zoneinfo"


def standard_library():
    import importlib

    missing = {}
    for name in STANDARD.split():
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing[name] = str(error)
    return {"tried": STANDARD.split(), "missing": missing}


def login_shell():
    """PATH as `bash -l` and ssh have it: Debian's /etc/profile sets it from scratch."""
    return {"home": os.environ.get("HOME", ""), "path": output(["sh", "-lc", 'printf %s "$PATH"'])[1].split(":")}


def writable():
    home = os.environ.get("HOME", "")
    answers = {"uid": os.getuid(), "home": home, "cwd": os.getcwd(), "problems": [], "modes": {}}
    for folder in dict.fromkeys([home, os.getcwd()]):
        try:
            name = os.path.join(folder, ".buildctl-probe")
            with open(name, "w") as file:
                file.write("x")
            os.unlink(name)
            answers["modes"][folder] = oct(os.stat(folder).st_mode & 0o7777)
        except OSError as error:
            answers["problems"].append(f"{folder}: {error.strerror}")
    return answers


QUESTIONS = {
    "writable": writable,
    "distributions": distributions,
    "console_scripts": console_scripts,
    "nvidia": nvidia,
    "locale": locale,
    "certificates": certificates,
    "pip": pip,
    "kept": kept,
    "standard_library": standard_library,
    "login_shell": login_shell,
}


def main():
    for name in OPTIONS.get("questions") or QUESTIONS:
        ask(name, QUESTIONS[name])


if __name__ == "__main__":
    main()
