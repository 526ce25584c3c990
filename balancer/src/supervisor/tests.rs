//! How workers leave, with a program in place of a real one.

use std::os::unix::fs::PermissionsExt;

use fleet::elastic::WorkerRange;

use super::*;

/// Far longer than anything here takes, but finite.
const LONG: Duration = Duration::from_mins(1);

/// A supervisor of workers that report where they listen and then do nothing.
fn supervisor(folder: &std::path::Path) -> Arc<Supervisor> {
    let program = folder.join("worker.sh");
    std::fs::write(&program, "#!/bin/sh\necho listening on 127.0.0.1:1\nexec sleep 1000\n")
        .expect("written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("set");
    let spawn = Spawn {
        range: WorkerRange { min: 1, max: 2 },
        shrink_after: LONG,
        latency: None,
        drain: 2 * LONG,
        program,
        models: folder.to_owned(),
        threads: 1,
        launcher: None,
    };
    let settings = fleet::Settings { is_probed: false, ..fleet::Settings::default() };
    let pool = Arc::new(Pool::new(settings, Instant::now()));
    Arc::new(Supervisor::new(spawn, pool, Arc::default(), Arc::default()))
}

#[tokio::test]
async fn a_worker_that_fails_says_nothing_about_the_others_that_are_starting() {
    let folder = tempfile::tempdir().expect("a folder");
    let supervisor = supervisor(folder.path());
    let expects = || supervisor.pool.expects(Instant::now());
    assert!(expects(), "the first is awaited from the beginning");
    supervisor.expect(1);
    supervisor.note_failure(1);
    assert!(expects(), "the other one may still come");
    supervisor.note_failure(0);
    assert!(!expects());
    supervisor.expect(0);
    assert!(!expects(), "one that has failed is not waited for");
}

#[tokio::test]
async fn a_worker_that_is_leaving_can_be_killed_and_one_without_a_process_cannot() {
    let folder = tempfile::tempdir().expect("a folder");
    let supervisor = supervisor(folder.path());
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    tell(&supervisor.pool.replace(&[(name(0), address)], Instant::now()));
    let endpoint = supervisor.endpoint(&name(0)).expect("in the list");
    assert_eq!(supervisor.kill(&name(0)), Kill::Unknown, "nothing was started");
    supervisor.set_place(0, WorkerState::At(address));
    assert_eq!(supervisor.kill(&name(0)), Kill::NoProcess, "it has crashed");
    let worker = Worker::start(&supervisor.spawn, &name(0), ANY, &supervisor.children);
    let worker = worker.expect("started");
    // The supervisor would wait for the end of this request.
    let _request = endpoint.begin(Instant::now());
    let (_stop, mut stopping) = watch::channel(None);
    let both = async {
        let killed = async {
            while !endpoint.state().leaving {
                tokio::task::yield_now().await;
            }
            supervisor.kill(&name(0))
        };
        tokio::join!(supervisor.leave(worker, 0, &mut stopping), killed).1
    };
    let killed = timeout(LONG, both).await.expect("it is not waited for");
    assert_eq!(killed, Kill::Done);
    assert_eq!(supervisor.kill(&name(0)), Kill::NoProcess, "it is gone");
}
