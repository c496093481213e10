"""Sign, upload and download the distributions of a folder, without leaving the machine.

    python .ci/release.py dist

A rehearsal of a release, with a key that is thrown away and an index of this machine:
checksums are signed and verified, a changed file is found out, and the index returns
the bytes that twine uploads. Needs twine, pypiserver and ssh-keygen.
"""

import hashlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

SIGNER, NAMESPACE = "release", "file"


def run(*command, **options):
    return subprocess.run(list(map(str, command)), check=True, **options)


def python(module, *arguments):
    run(sys.executable, "-m", module, *arguments)


def write_checksums(files, path):
    """A file as sha256sum writes it."""
    sums = (f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files)
    path.write_text("".join(sums))


def sign(path, folder):
    """Sign a file by a new key; returns the file of the public keys to trust."""
    key, signers = folder / "key", folder / "signers"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    run("ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", NAMESPACE, path)
    signers.write_text(f"{SIGNER} {key.with_suffix('.pub').read_text()}")
    return signers


def is_signed(path, signature, signers):
    command = ["ssh-keygen", "-q", "-Y", "verify", "-f", signers, "-I", SIGNER]
    command += ["-n", NAMESPACE, "-s", signature]
    with path.open("rb") as file:
        return not subprocess.run(command, stdin=file, check=False).returncode


def check_signature(files, folder):
    checksums = folder / "SHA256SUMS"
    write_checksums(files, checksums)
    signers = sign(checksums, folder)
    signature = folder / "SHA256SUMS.sig"
    assert is_signed(checksums, signature, signers), "the signature does not verify"
    changed = folder / "changed"
    changed.write_text(checksums.read_text().replace("0", "1", 1))
    assert not is_signed(changed, signature, signers), "a change was not found out"
    print(f"{checksums.read_text()}signed and verified")


@contextmanager
def index(folder):
    """Address of an empty index of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pypiserver", "run", "-i", "127.0.0.1"]
    # Anyone may upload.
    command += ["-p", str(port), "-P", ".", "-a", ".", str(folder)]
    server = subprocess.Popen(command)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(address)
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


def check_upload(files, folder):
    packages, received = folder / "packages", folder / "received"
    packages.mkdir()
    received.mkdir()
    with index(packages) as address:
        account = ["-u", "nobody", "-p", "none"]
        options = ["--repository-url", address, "--disable-progress-bar"]
        python("twine", "upload", *options, *account, *files)
        for file in files:
            if file.suffix == ".whl":
                requirement = "==".join(file.name.split("-")[:2])
                options = ["--no-deps", "--no-cache-dir", "-d", received]
                options += ["--index-url", f"{address}/simple/"]
                python("pip", "--isolated", "download", *options, requirement)
                continue
            # pip would build the source, by a backend that this index does not have.
            with urllib.request.urlopen(f"{address}/packages/{file.name}") as answer:
                (received / file.name).write_bytes(answer.read())
    for file in files:
        sent, back = file.read_bytes(), (received / file.name).read_bytes()
        assert sent == back, f"{file.name} came back changed"
    print("uploaded, and downloaded without a change")


def main():
    files = sorted(Path(sys.argv[1]).iterdir())
    assert {file.suffix for file in files} == {".whl", ".gz"}, files
    folder = Path(tempfile.mkdtemp())
    try:
        check_signature(files, folder)
        check_upload(files, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
