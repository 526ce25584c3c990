"""Makes a container image from a folder, without an engine: an archive in the format of `docker save`.

    image.py NAME FOLDER ARCHIVE PROGRAM [ARGUMENT ...]
"""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path


def owned_by_root(entry):
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def main(name, folder, archive, *command):
    layer = Path(f"{archive}.layer")
    with tarfile.open(layer, "w") as files:
        files.add(folder, arcname="", filter=owned_by_root)
    digest = hashlib.sha256(layer.read_bytes()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": command, "Env": ["PATH=/usr/local/bin:/usr/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "image.py"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as image:
        image.add(layer, arcname="layer.tar")
        for path, content in [("config.json", config), ("manifest.json", manifest)]:
            text = json.dumps(content).encode()
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            image.addfile(entry, io.BytesIO(text))
    layer.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
