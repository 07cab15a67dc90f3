//! Retention at work: with checkpoints, downloads and deletes all at once, and ends in the middle.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cryopod_archive::Archive;
use cryopod_kubelet::retention::{Census, Residents};
use cryopod_kubelet::store::{Identity, Stored};
use cryopod_kubelet::{BoxError, BoxFuture, Keeper, Retention, Store, StoreError};

use crate::small::write_archive;

const CONTAINERS: [[&str; 3]; 4] =
    [["n", "p", "a"], ["n", "p", "b"], ["n", "q", "a"], ["m", "p", "a"]];

fn keeper(folder: &Path, policy: &str) -> Keeper {
    Keeper::new(Store::at(folder).unwrap(), Retention::from_yaml(policy).unwrap(), None)
}

/// The name of a container's archive by its number: later ones sort later.
fn name(of: [&str; 3], number: usize) -> String {
    let [namespace, pod, container] = of;
    format!("checkpoint-{pod}_{namespace}-{container}-{number:05}.tar")
}

/// The number of an archive of a container.
fn number(name: &str) -> usize {
    name.rsplit_once('-').unwrap().1.strip_suffix(".tar").unwrap().parse().unwrap()
}

/// Numbers by container.
fn numbers(all: &[Stored]) -> BTreeMap<Identity, BTreeSet<usize>> {
    let mut map: BTreeMap<Identity, BTreeSet<usize>> = BTreeMap::new();
    for one in all {
        map.entry(one.identity.clone().unwrap()).or_default().insert(number(&one.name));
    }
    map
}

/// A small generator: what it gives need not be good, only varied.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// Makes archives of all containers, `each` of every one, and tells the keeper of each.
async fn make(folder: &Path, keeper: Keeper, numbers: std::ops::Range<usize>) {
    let tasks = CONTAINERS.map(|of| {
        let (folder, keeper, numbers) = (folder.to_owned(), keeper.clone(), numbers.clone());
        tokio::spawn(async move {
            for number in numbers {
                let folder = folder.clone();
                let write = move || write_archive(&folder, &name(of, number), of, number % 3);
                tokio::task::spawn_blocking(write).await.unwrap();
                keeper.notify();
            }
        })
    });
    for task in tasks {
        task.await.unwrap();
    }
}

/// Reads archives whole, once at least, and looks that they are there to the end.
async fn read(store: Store, seed: u64, done: Arc<AtomicUsize>) {
    let mut dice = Dice(seed);
    let mut whole = 0;
    while done.load(Ordering::Relaxed) > 0 || whole == 0 {
        let all = store.list().await.unwrap();
        if all.is_empty() {
            tokio::task::yield_now().await;
            continue;
        }
        let one = &all[dice.below(all.len())];
        let reading = match store.open(&one.name).await {
            Ok(reading) => Arc::new(reading),
            Err(StoreError::Missing { .. } | StoreError::InUse { .. }) => continue,
            Err(error) => panic!("{error:?}"),
        };
        let other = Arc::clone(&reading);
        let path = store.path(&one.name);
        tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; usize::try_from(other.bytes()).unwrap()];
            other.file().read_exact_at(&mut bytes, 0).unwrap();
            let archive = Archive::from_file(other.file().try_clone().unwrap(), &path).unwrap();
            archive.verify(&mut |_| ()).unwrap();
            assert!(path.exists(), "{} was deleted while it was read", path.display());
        })
        .await
        .unwrap();
        for _ in 0..dice.below(20) {
            tokio::task::yield_now().await;
        }
        assert!(store.path(&one.name).exists(), "{} was deleted while it was read", one.name);
        drop(reading);
        whole += 1;
    }
}

/// Pins some of the archives it finds; gives their names.
async fn pin(store: Store, seed: u64, most: usize, done: Arc<AtomicUsize>) -> BTreeSet<String> {
    let mut dice = Dice(seed);
    let mut pinned = BTreeSet::new();
    while done.load(Ordering::Relaxed) > 0 && pinned.len() < most {
        let all = store.list().await.unwrap();
        if all.is_empty() || dice.below(4) > 0 {
            tokio::task::yield_now().await;
            continue;
        }
        let one = &all[dice.below(all.len())];
        match store.pin(&one.name).await {
            Ok(_) => _ = pinned.insert(one.name.clone()),
            Err(StoreError::Missing { .. } | StoreError::InUse { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    pinned
}

/// Runs a keeper, ends it wherever it is, and begins with another one that knows nothing.
async fn restart_again_and_again(folder: &Path, policy: &str, done: Arc<AtomicUsize>) {
    let mut starts = 0;
    while done.load(Ordering::Relaxed) > 0 || starts == 0 {
        let keeper = keeper(folder, policy);
        let running = tokio::spawn(async move { keeper.run().await });
        for _ in 0..starts % 50 {
            tokio::task::yield_now().await;
        }
        running.abort();
        _ = running.await;
        starts += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn checkpoints_downloads_and_restarts_at_once_leave_what_the_policy_keeps() {
    const KEPT: usize = 3;
    const MADE: usize = 20;
    let policy = format!("globalPolicy: {{maxCheckpointsPerContainer: {KEPT}}}");
    let folder = tempfile::tempdir().unwrap();
    let keeper = keeper(folder.path(), &policy);
    let store = keeper.store().clone();
    let done = Arc::new(AtomicUsize::new(1));
    let running = tokio::spawn({
        let keeper = keeper.clone();
        async move { keeper.run().await }
    });
    let readers: Vec<_> = (0..3_u64)
        .map(|seed| {
            // Two of this process's store, one as another process has it.
            let own = if seed == 2 { Store::at(folder.path()).unwrap() } else { store.clone() };
            tokio::spawn(read(own, seed, Arc::clone(&done)))
        })
        .collect();
    let pinner = tokio::spawn(pin(store.clone(), 7, 5, Arc::clone(&done)));
    let restarts = tokio::spawn({
        let (folder, policy, done) = (folder.path().to_owned(), policy.clone(), Arc::clone(&done));
        async move { restart_again_and_again(&folder, &policy, done).await }
    });
    make(folder.path(), keeper.clone(), 0..MADE).await;
    done.store(0, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    let pinned = pinner.await.unwrap();
    restarts.await.unwrap();
    running.abort();
    _ = running.await;

    // Settled: nobody reads, so once is enough.
    let last = keeper.prune(false).await.unwrap();
    assert!(last.waiting.is_empty() && last.failed.is_empty(), "{last:?}");
    let again = keeper.prune(false).await.unwrap();
    assert!(again.deleted.is_empty(), "{again:?}");

    // What is there is exactly what is pinned and, up to the limit, the newest of the rest.
    let all = store.list().await.unwrap();
    let found = numbers(&all);
    for of in CONTAINERS {
        let [namespace, pod, container] = of.map(str::to_owned);
        let of = Identity { namespace, pod, container };
        let pins: BTreeSet<usize> = all
            .iter()
            .filter(|one| one.identity.as_ref() == Some(&of) && one.pinned)
            .map(|one| number(&one.name))
            .collect();
        let rest = KEPT.saturating_sub(pins.len());
        let newest = (0..MADE).rev().filter(|number| !pins.contains(number)).take(rest);
        let kept: BTreeSet<usize> = newest.chain(pins.iter().copied()).collect();
        assert_eq!(found.get(&of), Some(&kept), "{of}");
    }
    let names: BTreeSet<String> = all.into_iter().map(|one| one.name).collect();
    assert!(pinned.is_subset(&names), "{pinned:?} were pinned, {names:?} are left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deletes_by_others_in_between_leave_no_more_than_the_limits() {
    let policy = "globalPolicy: {maxCheckpointsPerContainer: 4, maxCheckpointsPerPod: 6}\n\
                  nodePolicy: {maxTotalSize: 100k}";
    let folder = tempfile::tempdir().unwrap();
    let keeper = keeper(folder.path(), policy);
    let store = keeper.store().clone();
    let done = Arc::new(AtomicUsize::new(1));
    let running = tokio::spawn({
        let keeper = keeper.clone();
        async move { keeper.run().await }
    });
    let reader = tokio::spawn(read(store.clone(), 1, Arc::clone(&done)));
    let pinner = tokio::spawn(pin(store.clone(), 2, 3, Arc::clone(&done)));
    let deleter = tokio::spawn({
        let (store, done) = (store.clone(), Arc::clone(&done));
        async move {
            let mut dice = Dice(3);
            while done.load(Ordering::Relaxed) > 0 {
                let all = store.list().await.unwrap();
                if !all.is_empty() {
                    match store.delete(&all[dice.below(all.len())].name).await {
                        Ok(()) | Err(StoreError::Missing { .. } | StoreError::InUse { .. }) => {}
                        Err(StoreError::Pinned { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    });
    make(folder.path(), keeper.clone(), 0..15).await;
    done.store(0, Ordering::Relaxed);
    reader.await.unwrap();
    deleter.await.unwrap();
    let pinned = pinner.await.unwrap();
    running.abort();
    _ = running.await;
    keeper.prune(false).await.unwrap();
    let all = store.list().await.unwrap();
    let pins = all.iter().filter(|one| one.pinned).count();
    assert!(pins <= 3);
    for (of, numbers) in numbers(&all) {
        assert!(numbers.len() <= 4, "{of}: {numbers:?}");
        let pod = all.iter().filter(|one| {
            let other = one.identity.as_ref().unwrap();
            (&other.namespace, &other.pod) == (&of.namespace, &of.pod)
        });
        assert!(pod.count() <= 6, "{of}");
    }
    assert!(all.iter().map(|one| one.bytes).sum::<u64>() <= 100_000);
    let names: BTreeSet<String> = all.into_iter().map(|one| one.name).collect();
    assert!(pinned.is_subset(&names), "{pinned:?} were pinned, {names:?} are left");
}

#[tokio::test]
async fn what_is_read_is_deleted_when_it_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..3 {
        write_archive(folder.path(), &name(CONTAINERS[0], number), CONTAINERS[0], 0);
    }
    let keeper = keeper(folder.path(), "nodePolicy: {maxCheckpoints: 1}\ninterval: 9999w");
    let store = keeper.store().clone();
    let reading = store.open(&name(CONTAINERS[0], 0)).await.unwrap();
    // Another process reads this one: only trying tells.
    let elsewhere = Store::at(folder.path()).unwrap();
    let other = elsewhere.open(&name(CONTAINERS[0], 1)).await.unwrap();
    let pruned = keeper.prune(false).await.unwrap();
    assert_eq!((pruned.deleted.len(), pruned.waiting.len()), (0, 2));
    assert_eq!(store.list().await.unwrap().len(), 3);
    drop(other);
    let running = tokio::spawn({
        let keeper = keeper.clone();
        async move { keeper.run().await }
    });
    until(&store, 2).await;
    drop(reading);
    until(&store, 1).await;
    assert_eq!(store.list().await.unwrap()[0].name, name(CONTAINERS[0], 2));
    // A pin that prevents a limit from being kept, and its end.
    store.pin(&name(CONTAINERS[0], 2)).await.unwrap();
    for number in 3..5 {
        write_archive(folder.path(), &name(CONTAINERS[0], number), CONTAINERS[0], 0);
    }
    keeper.notify();
    until(&store, 1).await;
    assert_eq!(store.list().await.unwrap()[0].name, name(CONTAINERS[0], 2));
    running.abort();
}

/// Waits until there are so many archives; for what must happen, but not for ever.
async fn until(store: &Store, count: usize) {
    let waiting = async {
        while store.list().await.unwrap().len() != count {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "{count} archives were waited for: {:?}", store.list().await);
}

#[tokio::test]
async fn a_dry_run_says_the_same_and_deletes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..5 {
        write_archive(folder.path(), &name(CONTAINERS[0], number), CONTAINERS[0], 0);
    }
    std::fs::write(folder.path().join("broken.tar"), "no").unwrap();
    let keeper = keeper(folder.path(), "nodePolicy: {maxCheckpoints: 2}");
    let dry = keeper.prune(true).await.unwrap();
    assert_eq!(keeper.store().list().await.unwrap().len(), 6);
    assert_eq!(dry.unreadable.len(), 1);
    let wet = keeper.prune(false).await.unwrap();
    assert_eq!(dry.deleted, wet.deleted);
    assert_eq!(wet.deleted.len(), 3);
    assert!(folder.path().join("broken.tar").exists());
    assert_eq!(keeper.store().list().await.unwrap().len(), 3);
}

/// Knows what it was told, or nothing.
struct Known(Mutex<Option<Residents>>);

impl Census for Known {
    fn residents(&self) -> BoxFuture<'_, Result<Residents, BoxError>> {
        let known = self.0.lock().unwrap().clone();
        Box::pin(async { known.ok_or_else(|| "the runtime does not answer".into()) })
    }
}

#[tokio::test]
async fn orphans_go_only_when_it_is_known_that_they_are() {
    let folder = tempfile::tempdir().unwrap();
    for of in CONTAINERS {
        write_archive(folder.path(), &name(of, 0), of, 0);
    }
    let known = Arc::new(Known(Mutex::new(None)));
    let retention = Retention::from_yaml("globalPolicy: {retainOrphan: false}").unwrap();
    let store = Store::at(folder.path()).unwrap();
    let keeper = Keeper::new(store.clone(), retention, Some(Arc::clone(&known) as _));
    assert!(keeper.prune(false).await.unwrap().deleted.is_empty());
    let mut residents = Residents::default();
    let [namespace, pod, container] = CONTAINERS[1].map(str::to_owned);
    residents.add(Identity { namespace, pod, container });
    *known.0.lock().unwrap() = Some(residents);
    assert_eq!(keeper.prune(false).await.unwrap().deleted.len(), 3);
    assert_eq!(store.list().await.unwrap()[0].name, name(CONTAINERS[1], 0));
}

#[tokio::test]
async fn a_checkpoint_by_https_is_followed_by_retention() {
    use crate::client::Client;
    use crate::stage::Stage;
    let keeper = Arc::new(Mutex::new(None));
    let stage = Stage::with(|options| {
        let folder = options.root_dir.join("checkpoints");
        let policy = "nodePolicy: {maxCheckpoints: 2}\ninterval: 9999w";
        let made = self::keeper(&folder, policy);
        options.keeper = Some(made.clone());
        *keeper.lock().unwrap() = Some(made);
    })
    .await;
    let keeper = keeper.lock().unwrap().take().unwrap();
    // The played runtime writes no archives; these are there already.
    let old = "2020-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap();
    for number in 0..3 {
        let name = name(CONTAINERS[0], number);
        write_archive(&stage.checkpoints(), &name, CONTAINERS[0], 0);
        let file = std::fs::File::options().append(true).open(stage.checkpoints().join(name));
        file.unwrap().set_modified(old.into()).unwrap();
    }
    let running = tokio::spawn({
        let keeper = keeper.clone();
        async move { keeper.run().await }
    });
    let store = keeper.store().clone();
    until(&store, 2).await;
    write_archive(&stage.checkpoints(), &name(CONTAINERS[0], 9), CONTAINERS[0], 0);
    let client: Client = stage.client();
    assert_eq!(client.post("/checkpoint/default/counter/counter").await.status, 200);
    // Two archives, and what the played runtime wrote, which is none.
    until(&store, 3).await;
    assert!(store.find(&name(CONTAINERS[0], 9)).await.is_ok());
    running.abort();
}

// ---- a process that is killed

const FOLDER: &str = "CRYOPOD_TEST_RETENTION_FOLDER";
const KILLED_POLICY: &str = "globalPolicy: {maxCheckpointsPerContainer: 3}";

/// Not a test by itself: makes archives and keeps to the policy until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that another test kills"]
async fn the_process_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder).to_owned();
    let keeper = keeper(&folder, KILLED_POLICY);
    let running = keeper.clone();
    tokio::spawn(async move { running.run().await });
    let begin = std::fs::read_to_string(folder.join("made")).unwrap_or_default().lines().count();
    for number in begin.. {
        for of in CONTAINERS {
            // One made by the process before may not be in the list yet.
            if folder.join(name(of, number)).exists() {
                continue;
            }
            let folder = folder.clone();
            tokio::task::spawn_blocking(move || write_archive(&folder, &name(of, number), of, 20))
                .await
                .unwrap();
            keeper.notify();
        }
        // Each line is whole, and comes after its archives are.
        let made = std::fs::File::options().create(true).append(true).open(folder.join("made"));
        made.unwrap().write_all(format!("{number}\n").as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn a_process_killed_in_the_middle_loses_nothing_that_the_policy_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let made = || {
        let text = std::fs::read_to_string(folder.path().join("made")).unwrap_or_default();
        text.lines().count()
    };
    for round in 1..=4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "retention::the_process_that_is_killed", "--ignored"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while made() < round * 5 {
            assert!(child.try_wait().unwrap().is_none(), "the other process ended by itself");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();

        let store = Store::at(folder.path()).unwrap();
        let all = store.list().await.unwrap();
        for one in &all {
            assert_eq!(one.unreadable, None);
            let archive = Archive::open(&one.path).unwrap();
            archive.verify(&mut |_| ()).unwrap();
        }
        let found = numbers(&all);
        for of in CONTAINERS {
            let [namespace, pod, container] = of.map(str::to_owned);
            let there = &found[&Identity { namespace, pod, container }];
            // All that were ever whole, as far as anybody knows.
            let ever: BTreeSet<usize> = (0..made()).chain(there.iter().copied()).collect();
            let kept: BTreeSet<usize> = ever.iter().rev().take(3).copied().collect();
            assert!(kept.is_subset(there), "round {round}: {kept:?} must be in {there:?}");
        }
        // Who comes after it settles it.
        keeper(folder.path(), KILLED_POLICY).prune(false).await.unwrap();
        let left = numbers(&store.list().await.unwrap());
        assert!(left.values().all(|numbers| numbers.len() == 3), "{left:?}");
    }
}
