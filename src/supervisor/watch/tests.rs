//! Edits as editors, shells and Kubernetes make them. Tests of events have a poll interval of an
//! hour; tests of the poll have no inotify.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::inotify::Inotify;
use super::{ConfigWatcher, SETTLE_TIME};

const SOON: Duration = Duration::from_secs(5);
const NEVER: Duration = Duration::from_secs(3600);

/// A watched directory `conf` with `a.toml`, and room beside it.
struct World {
    root: TempDir,
    watch: ConfigWatcher,
}

impl World {
    fn with(watch: impl FnOnce(PathBuf) -> ConfigWatcher) -> Self {
        let root = tempfile::tempdir().unwrap();
        let conf = root.path().join("conf");
        fs::create_dir(&conf).unwrap();
        fs::write(conf.join("a.toml"), "a = 1").unwrap();
        Self { watch: watch(conf), root }
    }

    fn with_events() -> Self {
        Self::with(with_events)
    }

    fn without_events() -> Self {
        Self::with(without_events)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Waits until the inotify watches are in place and no comparison is due.
    async fn listening(&mut self) {
        self.unchanged().await;
    }

    async fn changed(&mut self) {
        timeout(SOON, self.watch.changed()).await.expect("the change is noticed");
    }

    async fn unchanged(&mut self) {
        let changed = timeout(SETTLE_TIME * 2, self.watch.changed()).await;
        assert!(changed.is_err(), "there is no change");
    }

    /// Expects exactly one change.
    async fn changed_once(&mut self) {
        self.changed().await;
        self.watch.settle();
        self.unchanged().await;
    }
}

fn with_events(directory: PathBuf) -> ConfigWatcher {
    let wake = Arc::<Notify>::default();
    let watcher = Inotify::new(Arc::clone(&wake));
    ConfigWatcher::with(directory, NEVER, wake, watcher)
}

fn without_events(directory: PathBuf) -> ConfigWatcher {
    ConfigWatcher::with(
        directory,
        Duration::from_millis(50),
        Arc::default(),
        Inotify::unavailable(),
    )
}

/// Runs a test on a runtime like that of the control thread.
fn run<F: Future>(story: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap()
        .block_on(story)
}

/// Points `link` to `target` atomically, as Kubernetes does.
fn swap(target: &str, link: &Path) {
    let temporary = link.with_file_name("..data_tmp");
    symlink(target, &temporary).unwrap();
    fs::rename(temporary, link).unwrap();
}

#[test]
fn every_way_to_edit_is_one_change() {
    type Edit = fn(&World);
    let edits: [(&str, Edit); 7] = [
        ("in place", |world| {
            let mut file = File::options().write(true).open(world.path("conf/a.toml")).unwrap();
            file.write_all(b"a = 2").unwrap();
        }),
        ("truncated and written", |world| world.write("conf/a.toml", "a = 2")),
        ("an editor's backup, then a new file", |world| {
            fs::rename(world.path("conf/a.toml"), world.path("conf/a.toml~")).unwrap();
            world.write("conf/a.toml", "a = 2");
            fs::remove_file(world.path("conf/a.toml~")).unwrap();
        }),
        ("sed -i", |world| {
            world.write("conf/sedXyZ", "a = 2");
            fs::rename(world.path("conf/sedXyZ"), world.path("conf/a.toml")).unwrap();
        }),
        ("added", |world| world.write("conf/b.toml", "")),
        ("removed", |world| fs::remove_file(world.path("conf/a.toml")).unwrap()),
        ("renamed", |world| {
            fs::rename(world.path("conf/a.toml"), world.path("conf/b.toml")).unwrap();
        }),
    ];
    run(async {
        let mut stories = JoinSet::new();
        for (name, edit) in edits {
            for kind in [World::with_events, World::without_events] {
                stories.spawn_local(async move {
                    let mut world = kind();
                    world.listening().await;
                    edit(&world);
                    timeout(SOON, world.changed_once()).await.expect(name);
                });
            }
        }
        stories.join_all().await;
    });
}

#[test]
fn an_edit_before_anybody_listens_is_noticed() {
    run(async {
        let mut world = World::with_events();
        world.write("conf/a.toml", "a = 2");
        world.changed_once().await;
    });
}

#[test]
fn a_file_completed_after_it_was_truncated_is_seen_complete() {
    for kind in [World::with_events, World::without_events] {
        run(async {
            let mut world = kind();
            world.listening().await;
            world.write("conf/a.toml", "");
            world.changed().await;
            // Written while a reload of the incomplete file is running.
            world.write("conf/a.toml", "a = 2");
            world.watch.settle();
            world.changed_once().await;
        });
    }
}

#[test]
fn two_writes_within_the_quiet_time_are_one_change() {
    for kind in [World::with_events, World::without_events] {
        run(async {
            let mut world = kind();
            world.listening().await;
            world.write("conf/a.toml", "");
            let early = timeout(SETTLE_TIME / 2, world.watch.changed()).await;
            assert!(early.is_err(), "it waits for quiet");
            world.write("conf/a.toml", "a = 2");
            world.changed_once().await;
        });
    }
}

#[test]
fn changes_during_a_reload_are_not_lost() {
    run(async {
        let mut world = World::with_events();
        world.write("conf/a.toml", "a = 2");
        world.changed().await;
        world.write("conf/a.toml", "a = 3");
        world.watch.settle();
        world.changed_once().await;

        // A reload requested by a command.
        world.watch.remember().await;
        world.write("conf/a.toml", "a = 4");
        world.watch.settle();
        world.changed_once().await;
    });
}

#[test]
fn settled_content_is_known() {
    run(async {
        let mut world = World::with_events();
        world.listening().await;
        world.write("conf/a.toml", "a = 2");
        world.watch.settle();
        world.unchanged().await;
        world.write("conf/a.toml", "a = 1");
        world.changed_once().await;
    });
}

#[test]
fn a_change_stays_until_it_is_settled() {
    run(async {
        let mut world = World::with_events();
        world.write("conf/a.toml", "a = 2");
        world.changed().await;
        world.changed_once().await;
    });
}

#[test]
fn dropped_futures_lose_nothing() {
    run(async {
        let mut world = World::with_events();
        world.listening().await;
        world.write("conf/a.toml", "a = 2");
        // Shorter than `SETTLE_TIME`: each future is dropped at another point of its wait.
        let change = async {
            while timeout(Duration::from_millis(7), world.watch.changed()).await.is_err() {}
        };
        timeout(SOON, change).await.expect("the change is noticed");
    });
}

#[test]
fn dropped_futures_do_not_put_off_the_poll() {
    run(async {
        let mut world = World::without_events();
        world.listening().await;
        world.write("conf/a.toml", "a = 2");
        let change = async {
            while timeout(Duration::from_millis(20), world.watch.changed()).await.is_err() {}
        };
        timeout(SOON, change).await.expect("the change is noticed");
    });
}

#[test]
fn noise_beside_the_files_does_not_hide_a_change() {
    run(async {
        let mut world = World::with_events();
        world.listening().await;
        let mut log = File::create(world.path("conf/access.log")).unwrap();
        world.write("conf/a.toml", "a = 2");
        let noise = async {
            loop {
                log.write_all(b"line\n").unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = world.changed() => {}
            () = noise => {}
        }
    });
}

#[test]
fn same_content_is_no_change() {
    run(async {
        let mut world = World::with_events();
        world.listening().await;
        let file = File::options().write(true).open(world.path("conf/a.toml")).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        drop(file);
        world.unchanged().await;
        world.write("conf/a.toml", "a = 1");
        world.write("conf/notes.txt", "not configuration");
        world.write("conf/.a.toml.swp", "an editor's");
        world.unchanged().await;
    });
}

#[test]
fn an_unreadable_file_is_a_change_at_most() {
    run(async {
        let mut world = World::with_events();
        world.listening().await;
        let path = world.path("conf/a.toml");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        // Root can read the file despite its mode.
        if File::open(&path).is_err() {
            world.changed_once().await;
        } else {
            world.unchanged().await;
        }
        fs::remove_file(&path).unwrap();
        symlink("a.toml", &path).unwrap();
        world.changed_once().await;
    });
}

#[test]
fn a_named_pipe_does_not_stop_the_reading() {
    run(async {
        let mut world = World::with_events();
        world.listening().await;
        let pipe = world.path("conf/pipe.toml");
        let made = std::process::Command::new("mkfifo").arg(pipe).status().unwrap();
        assert!(made.success());
        world.changed_once().await;
    });
}

#[test]
fn a_replaced_directory_is_watched_again() {
    run(async {
        let mut world = World::with_events();
        world.listening().await;
        fs::rename(world.path("conf"), world.path("old")).unwrap();
        world.changed_once().await;
        fs::create_dir(world.path("conf")).unwrap();
        world.write("conf/a.toml", "a = 2");
        world.changed_once().await;
        // Losing the watch on the old directory must not remove the watch on the new one.
        fs::remove_dir_all(world.path("old")).unwrap();
        world.unchanged().await;
        world.write("conf/a.toml", "a = 3");
        world.changed_once().await;
        fs::remove_dir_all(world.path("conf")).unwrap();
        fs::create_dir(world.path("conf")).unwrap();
        world.write("conf/a.toml", "a = 4");
        world.changed_once().await;
        world.write("conf/a.toml", "a = 5");
        world.changed_once().await;
    });
}

#[test]
fn a_directory_that_does_not_exist_yet_is_waited_for() {
    run(async {
        let mut world = World::with(|conf| with_events(conf.with_file_name("later").join("conf")));
        world.listening().await;
        fs::create_dir(world.path("later")).unwrap();
        world.unchanged().await;
        fs::create_dir(world.path("later/conf")).unwrap();
        world.changed_once().await;
        world.write("later/conf/a.toml", "a = 1");
        world.changed_once().await;
    });
}

#[test]
fn a_config_map_is_swapped() {
    run(async {
        let mut world = World::with_events();
        for (version, text) in [("..1", "a = 1"), ("..2", "a = 2"), ("..3", "a = 3")] {
            fs::create_dir(world.path("conf").join(version)).unwrap();
            world.write(&format!("conf/{version}/a.toml"), text);
        }
        swap("..1", &world.path("conf/..data"));
        fs::remove_file(world.path("conf/a.toml")).unwrap();
        symlink("..data/a.toml", world.path("conf/a.toml")).unwrap();
        world.unchanged().await;
        for (before, version) in [("..1", "..2"), ("..2", "..3")] {
            swap(version, &world.path("conf/..data"));
            fs::remove_dir_all(world.path("conf").join(before)).unwrap();
            world.changed_once().await;
        }
    });
}

#[test]
fn a_certificate_elsewhere_is_watched_as_long_as_it_is_named() {
    run(async {
        let mut world = World::with_events();
        // As a Kubernetes secret: below a swapped link, and itself the target of a link.
        for (version, text) in [("1", "old"), ("2", "new")] {
            fs::create_dir_all(world.path("secret").join(version)).unwrap();
            world.write(&format!("secret/{version}/tls.crt"), text);
        }
        swap("1", &world.path("secret/..data"));
        fs::create_dir(world.path("tls")).unwrap();
        symlink("../secret/..data/tls.crt", world.path("tls/tls.crt")).unwrap();
        world.watch.watch_files(vec![world.path("tls/tls.crt")]);
        world.listening().await;
        swap("2", &world.path("secret/..data"));
        world.changed_once().await;
        world.write("secret/2/tls.crt", "newer");
        world.changed_once().await;
        fs::remove_file(world.path("tls/tls.crt")).unwrap();
        world.changed_once().await;
        world.write("tls/tls.crt", "newer");
        world.changed_once().await;
        world.watch.watch_files(Vec::new());
        world.write("tls/tls.crt", "nobody's");
        world.unchanged().await;
    });
}

#[test]
fn naming_files_again_keeps_what_is_known_of_them() {
    run(async {
        let mut world = World::with_events();
        world.write("tls.crt", "old");
        world.write("tls.key", "old");
        world.watch.watch_files(vec![world.path("tls.crt")]);
        world.write("tls.crt", "new");
        world.watch.watch_files(vec![world.path("tls.key"), world.path("tls.crt")]);
        world.changed_once().await;
    });
}

#[test]
fn idle_means_no_looks() {
    run(async {
        let mut world = World::with_events();
        world.listening().await;
        // The watcher's own reads cause events too.
        world.watch.read_content().await.unwrap();
        let due = timeout(SETTLE_TIME * 5, world.watch.due()).await;
        assert!(due.is_err(), "nothing wakes it");
    });
}
