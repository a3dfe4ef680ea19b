"""A study as people watch it: on a terminal, and in a browser that can only look."""

import io
import json
import os
import pty
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from databases import install
from rich.console import Console
from stub_worker import score
from test_cli import fine
from test_study import create

import genenet as gn
from genenet.cli.live import is_done, picture
from genenet.cli.watching import look
from genenet.folder import write_text
from search.dashboard import serve
from search.study import Study
from search.worker import work

# -- on a terminal ---


def drawn(study):
    console = Console(file=io.StringIO(), width=120)
    console.print(picture(study, look(study, ())))
    return console.file.getvalue()


def test_the_live_table_says_who_works_on_what(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=4)
    assert "0 of 4 networks drawn" in drawn(study) and "nothing yet" in drawn(study)
    shown = []

    def train(study, trial, check):
        if trial.number == 2:
            raise gn.InputError("the image is made of cheese")
        if trial.number == 3:
            shown.append(drawn(Study.open(study.folder)))
            rows = "step,seconds,adjusted_rand,mean_iou,accuracy\n1200,60,0.71,0.5,0.9\n1400,70,0.69,0.4,0.8\n"
            write_text(trial.history, rows)
            shown.append(drawn(Study.open(study.folder)))
            assert not is_done(study, look(study, ()))
        return score(study, trial)

    work(study, train)
    assert "net 3" in shown[0] and "begins" in shown[0] and os.uname().nodename in shown[0]
    assert "1,400 of 2,000" in shown[1] and "0.7100" in shown[1]
    last = drawn(study)
    assert is_done(study, look(study, ()))
    assert "running" not in last and "3 done, 1 failed" in last and "net 2 failed: the image is made of cheese" in last
    best = max(study.trials(), key=lambda trial: trial.state.get("adjusted_rand", -9))
    assert last.index(f"net {best.number} ") < min(last.index(f"net {n} ") for n in {0, 1, 3} - {best.number})
    assert "worked_s" not in study.leaderboard()


def test_on_a_terminal_the_table_lives_until_the_study_is_done(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=3)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "genenet", "search", "status", study.folder, "--every", "0.2"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    watcher = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    read = []

    def listen():
        while True:
            try:
                read.append(os.read(ours, 4096))
            except OSError:
                return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    while b"0 of 3" not in b"".join(read):
        time.sleep(0.1)
        assert watcher.poll() is None, b"".join(read)
    work(study, score)
    assert watcher.wait(timeout=60) == 0
    listener.join(timeout=10)
    assert b"3 of 3 networks drawn" in b"".join(read)
    assert "3 of 3 networks drawn; 3 done" in fine("search", "status", study.folder)  # no terminal: printed once


# -- in a browser ---


@pytest.fixture
def dashboard(data_file, tmp_path):
    """A study and the address where it is shown."""
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    study = create(tmp_path / "study", data_file, n_trials=5)
    work(study, score)
    with serve(study, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield study, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_dashboard_can_only_be_looked_at(dashboard):
    study, address = dashboard
    with urllib.request.urlopen(f"{address}/api/studies") as answer:
        (summary,) = json.loads(answer.read())["study_summaries"]
    assert summary["study_name"] == study.storage_name and study.storage_name.startswith("study-")
    with urllib.request.urlopen(f"{address}/api/studies/{study.optuna_id}?after=0") as answer:
        assert len(json.loads(answer.read())["trials"]) == 5
    request = urllib.request.Request(f"{address}/api/studies/{study.optuna_id}", method="DELETE")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    assert len(Study.open(study.folder).optuna_study.trials) == 5
    with pytest.raises(gn.InputError, match="port .* cannot be used: .*; name another with --port"):
        serve(study, "127.0.0.1", int(address.rpartition(":")[2]))


@pytest.fixture(scope="module")
def browser():
    """A real browser without a window."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not shutil.which("chromedriver"):
        install("chromium", "chromium-driver")
    if not shutil.which("chromedriver"):
        pytest.skip("there is no chromedriver; on Debian: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.mark.slow
def test_the_dashboard_in_a_browser(dashboard, browser, tmp_path):
    study, address = dashboard
    command = [sys.executable, "-m", "genenet", "search", "dashboard", study.folder, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = server.stdout.readline()
        browser.get(said.split()[0])
        deadline = time.monotonic() + 60
        while "Trial (Best)" not in (text := browser.find_element("tag name", "body").text) and "Best" not in text:
            assert time.monotonic() < deadline, text
            time.sleep(0.5)
        assert study.storage_name in text
        assert f"shows {study.folder}" in said
    finally:
        server.terminate()
        server.wait()
