//! Workers that the balancer starts: how they start, end and are restarted.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::common::{Stub, exchange};
use crate::program::{Program, folder, supervised, until};

fn is_running(pid: &str) -> bool {
    let status = std::fs::read_to_string(PathBuf::from("/proc").join(pid.trim()).join("stat"));
    // A zombie has already ended.
    status.is_ok_and(|status| !status.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_while_a_worker_is_starting() {
    let folder = folder();
    let started = folder.path().join("started");
    let text = format!("trap '' TERM\ntouch {}\nwhile :; do sleep 1; done", started.display());
    let mut balancer = supervised(folder.path(), &text, &["--drain-timeout", "1s"]).await;
    until("it is started", async || started.exists().then_some(())).await;
    balancer.signal(Signal::TERM);
    assert!(balancer.ended_in_time().await.success(), "{}", balancer.log());
    assert!(balancer.log().contains("worker did not stop, killing it worker=worker1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_print_what_is_no_text_and_has_no_end() {
    let (stub, folder) = (Stub::named("alive").await, folder());
    let text = format!(
        "echo hello\nprintf 'caf\\351\\n'\necho listening on {}\nprintf 'ol\\303\\n' >&2\n\
         head -c 300000 /dev/zero\necho\necho the end\nexec cat >/dev/null",
        stub.address
    );
    let mut balancer = supervised(folder.path(), &text, &["--drain-timeout", "1s"]).await;
    balancer.until_ready().await;
    for printed in
        ["worker1 | hello\n", "worker1 | caf\\xe9\n", "worker1 | ol\\xc3\n", "worker1 | the end\n"]
    {
        balancer.until_logged(printed).await;
    }
    assert_eq!(balancer.post().await, 200);
    balancer.signal(Signal::TERM);
    assert!(balancer.ended_in_time().await.success());
    assert!(balancer.log().contains("worker stopped worker=worker1"), "{}", balancer.log());
}

/// Since Linux 5.0, a process can report whether it may have huge pages.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn it_has_no_huge_pages_and_its_workers_may_have_some() {
    let (stub, folder) = (Stub::named("alive").await, folder());
    let text = format!(
        "echo huge pages: $(grep -o 'THP_enabled.*[01]' /proc/self/status | grep -o '[01]$')\n\
         echo listening on {}\nexec cat >/dev/null",
        stub.address
    );
    let balancer = supervised(folder.path(), &text, &[]).await;
    balancer.until_ready().await;
    let status = PathBuf::from("/proc").join(balancer.child.id().to_string()).join("status");
    let status = std::fs::read_to_string(status).unwrap();
    if status.contains("THP_enabled") {
        assert!(status.contains("THP_enabled:\t0"), "{status}");
        balancer.until_logged("worker1 | huge pages: 1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_is_started_again_and_the_reason_is_told() {
    let folder = folder();
    let balancer = supervised(folder.path(), "exit 3", &[]).await;
    balancer.until_logged("worker exited worker=worker1 reason=\"exit status 3\"").await;
    let again = async || (balancer.log().matches("exit status 3").count() >= 2).then_some(());
    until("it is started again", again).await;
    assert!(balancer.log().contains("restart_in=200ms"), "{}", balancer.log());
    let missing = Program::start(&["--spawn", "1", "--worker-bin", "/nowhere/worker"]).await;
    missing.until_logged("worker1 | cannot run /nowhere/worker: No such file").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_started_again_is_used_although_nothing_is_probed() {
    let (stub, folder) = (Stub::named("alive").await, folder());
    let crash = folder.path().join("crash");
    let text = format!(
        "[ -e {1} ] && {{ echo listening on {0}; exec cat >/dev/null; }}\n\
         echo listening on {0}\nwhile ! [ -e {1} ]; do sleep 0.01; done\nkill -9 $$",
        stub.address,
        crash.display()
    );
    let balancer = supervised(folder.path(), &text, &["--probe-path", ""]).await;
    balancer.until_ready().await;
    assert_eq!(balancer.post().await, 200);
    std::fs::write(&crash, "").expect("written");
    balancer.until_logged("reason=\"killed by signal 9\"").await;
    until("it is back", async || (balancer.post().await == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_kills_whatever_process_a_worker_has_or_hears_that_there_is_none() {
    let (stub, folder) = (Stub::named("alive").await, folder());
    // The first process listens, the second never reports its address, and all others fail.
    let text = format!(
        "mkdir {0}/first 2>/dev/null && {{ echo listening on {1}; exec sleep 1000; }}\n\
         mkdir {0}/second 2>/dev/null || exit 1\necho $$ >{0}/second/pid\nexec sleep 1000",
        folder.path().display(),
        stub.address
    );
    let balancer = supervised(folder.path(), &text, &["--lessons"]).await;
    balancer.until_ready().await;
    let kill = async || {
        let request = "POST /fleet/worker1/kill HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        exchange(balancer.admin, request).await
    };
    assert_eq!(kill().await.status, 200);
    let noted = folder.path().join("second/pid");
    let pid = async || std::fs::read_to_string(&noted).ok().filter(|pid| pid.ends_with('\n'));
    let pid = until("the second is starting", pid).await;
    assert_eq!(kill().await.status, 200);
    until("that one ends too", async || (!is_running(&pid)).then_some(())).await;
    let refused = async || Some(kill().await).filter(|answer| answer.status == 409);
    let refused = until("between two starts there is none", refused).await;
    assert!(refused.error().contains("started again soon"), "{}", refused.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_be_started_does_not_keep_the_others_from_their_work() {
    let (stub, folder) = (Stub::named("alive").await, folder());
    // The first process creates the folder and fails, the second listens, all others fail.
    let text = format!(
        "mkdir {0}/failing 2>/dev/null && exit 1\n\
         [ -e {0}/other ] && exit 1\n: >{0}/other\necho listening on {1}\nexec cat >/dev/null",
        folder.path().display(),
        stub.address
    );
    let balancer = supervised(folder.path(), &text, &["--spawn", "2"]).await;
    balancer.until_ready().await;
    assert_eq!(balancer.post().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_do_not_outlive_a_balancer_that_is_killed() {
    let folder = folder();
    let noted = folder.path().join("pid");
    let text = format!("echo $$ > {0}.new; mv {0}.new {0}\nexec sleep 1000", noted.display());
    let mut balancer = supervised(folder.path(), &text, &[]).await;
    let pid = until("it is started", async || std::fs::read_to_string(&noted).ok()).await;
    assert!(is_running(&pid));
    balancer.signal(Signal::KILL);
    assert_eq!(balancer.ended().await.signal(), Some(9));
    until("the worker ends", async || (!is_running(&pid)).then_some(())).await;
}

/// A program that answers at the address of a crashed worker is not the worker.
#[tokio::test(flavor = "multi_thread")]
async fn another_program_on_a_crashed_workers_port_gets_no_request() {
    let (foreign, stub, folder) =
        (Stub::named("foreign").await, Stub::named("own").await, folder());
    let crash = folder.path().join("crash");
    // The first process is at the foreign address and crashes when it is told to. Then that port is
    // taken, and the next process finds another.
    let text = format!(
        "case \"$*\" in\n*--listen\\ {0}*) echo address in use >&2; exit 1;; esac\n\
         [ -e {2} ] && {{ echo listening on {1}; exec cat >/dev/null; }}\n\
         echo listening on {0}\nwhile ! [ -e {2} ]; do sleep 0.01; done\nkill -9 $$",
        foreign.address,
        stub.address,
        crash.display()
    );
    let balancer = supervised(folder.path(), &text, &[]).await;
    balancer.until_ready().await;
    assert_eq!(balancer.post().await, 200);
    let before = foreign.seen().len();
    std::fs::write(&crash, "").expect("written");
    balancer.until_logged("reason=\"killed by signal 9\"").await;
    let moved = stub.address.to_string();
    until("it is elsewhere", async || {
        balancer.post().await;
        let one = balancer.fleet().await["endpoints"][0].clone();
        (one["address"] == *moved && one["state"] == "available").then_some(())
    })
    .await;
    assert_eq!(balancer.post().await, 200);
    assert_eq!(foreign.seen().len(), before, "{}", balancer.log());
}

/// Requests that arrive before the first worker listens wait for it, as they do for a busy one.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_worker_that_is_starting_and_is_told_when_it_does_not() {
    let (stub, folder) = (Stub::named("alive").await, folder());
    let ready = folder.path().join("ready");
    let text = format!(
        "while ! [ -e {} ]; do sleep 0.01; done\necho listening on {}\nexec cat >/dev/null",
        ready.display(),
        stub.address
    );
    let more = ["--queue-timeout", "60s", "--request-timeout", "2m"];
    let balancer = supervised(folder.path(), &text, &more).await;
    let (status, ()) = tokio::join!(balancer.post(), async {
        let waits = async || (balancer.metric("balancer_queue_depth").await > 0.0).then_some(());
        until("the request waits", waits).await;
        std::fs::write(&ready, "").expect("written");
    });
    assert_eq!(status, 200);
    // The first start of this one fails after the request has arrived: no worker is expected then.
    let folder = self::folder();
    let go = folder.path().join("go");
    let text = format!("while ! [ -e {} ]; do sleep 0.01; done\nexit 3", go.display());
    let balancer = supervised(folder.path(), &text, &more).await;
    let (status, ()) = tokio::join!(balancer.post(), async {
        let waits = async || (balancer.metric("balancer_queue_depth").await > 0.0).then_some(());
        until("the request waits", waits).await;
        std::fs::write(&go, "").expect("written");
    });
    assert_eq!(status, 503);
}
