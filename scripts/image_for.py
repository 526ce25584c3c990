"""Sets the architecture of an image, between `docker save` and `docker load`.

    docker save NAME | python3 scripts/image_for.py arm64 | docker load

The builder that needs no plugin labels every image with its own architecture, whatever programs are in it.
"""

import hashlib
import io
import json
import sys
import tarfile


def main(architecture):
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as source:
        files = [(entry, source.extractfile(entry).read() if entry.isfile() else None) for entry in source]
    by_name = {entry.name: content for entry, content in files}
    manifest = json.loads(by_name["manifest.json"])
    renamed = {}
    for image in manifest:
        config = json.dumps({**json.loads(by_name[image["Config"]]), "architecture": architecture}).encode()
        renamed[image["Config"]] = (f"{hashlib.sha256(config).hexdigest()}.json", config)
        image["Config"] = renamed[image["Config"]][0]
    renamed["manifest.json"] = ("manifest.json", json.dumps(manifest).encode())
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as target:
        for entry, content in files:
            if entry.name in renamed:
                entry.name, content = renamed[entry.name]
                entry.size = len(content)
            target.addfile(entry, io.BytesIO(content) if content else None)


main(sys.argv[1])
