"""How the commands of a worker handle statements, files and flags that are almost right, or malicious."""

import io
import subprocess
import zipfile

import pytest

from conftest import TARGET
from fleet import ROOT
from pictures import digit, encode

TABLE = "a,b,y\n" + "".join(f"{n},{n % 7},{n % 2}\n" for n in range(60))
OPTIONS = "OPTIONS(model_type='linear_reg', input_label_cols=['y'])"

STATEMENTS = {
    "a model that need not be there": (0, f"CREATE MODEL IF NOT EXISTS m {OPTIONS} AS SELECT a, y FROM t"),
    "a query in parentheses": (0, f"CREATE MODEL m {OPTIONS} AS (SELECT a, y FROM t);"),
    "numbers too large to compute with": (1, f"CREATE MODEL m {OPTIONS} AS SELECT a * 1e200 AS a, y * 1e200 AS y FROM t"),
}


def worker(*arguments, content=None):
    command = [str(part) for part in (TARGET / "worker", "--log", "error", *arguments)]
    return subprocess.run(command, input=content, capture_output=True, timeout=90, check=False)


def expect(done, status):
    said = done.stderr.decode()
    assert done.returncode == status, said
    assert "panicked" not in said, said
    return said


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_trains_a_model_or_is_refused_in_words(tmp_path, name):
    status, statement = STATEMENTS[name]
    (tmp_path / "t.csv").write_text(TABLE)
    (tmp_path / "model.sql").write_text(statement)
    models = tmp_path / "models"
    done = worker("train", "sql", tmp_path / "model.sql", "--csv", f"t={tmp_path / 't.csv'}", "--models", models)
    expect(done, status)
    # A refused statement leaves no model to serve.
    assert (models / "m" / "1" / "weights.safetensors").exists() == (status == 0)


def test_a_deep_pickle_is_refused(tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".")
        file.writestr("archive/version", "3\n")
    (tmp_path / "deep.pth").write_bytes(archive.getvalue())
    done = worker("pull", "mobilenet_v2", "--from", tmp_path / "deep.pth", "--models", tmp_path / "models")
    assert "not read" in expect(done, 1)


@pytest.mark.parametrize("flag", ["--deadline", "--drain-timeout", "--poll"])
def test_a_time_that_no_clock_reaches_is_refused(flag):
    done = worker("serve", "--listen", "127.0.0.1:0", "--models", ROOT / "models", flag, "500000000000years")
    assert flag in expect(done, 2 if b"invalid value" in done.stderr else 1)


def test_pictures_are_classified_from_standard_input_and_from_folders(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "seven.png").write_bytes(encode(digit(7)))
    models = ["--models", ROOT / "models", "--model", "mnist", "--top", "1"]
    for arguments, content in [((tmp_path,), None), (("-",), encode(digit(7)))]:
        done = worker("classify", *models, *arguments, content=content)
        expect(done, 0)
        assert b"7" in done.stdout
