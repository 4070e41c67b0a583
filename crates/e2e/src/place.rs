//! Where things are: the repository, the built binaries, this run's logs, free ports, names nobody else uses.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{fs, process};

/// The root of the repository.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the repository is where it was built")
}

/// `target/<profile>`, in which the test executable's directory lies.
pub fn target() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    test.ancestors().nth(2).expect("target/<profile>/deps/<test>").to_owned()
}

/// A service's binary, built beside the test.
pub fn binary(name: &str) -> PathBuf {
    let path = target().join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace --bins` first", path.display());
    path
}

/// A directory of this test process alone, for logs and brokers' data. Those of processes that are gone are removed.
pub fn run_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let runs = target().join("e2e");
        let test = std::env::current_exe().expect("the test's own path");
        let test = test.file_stem().and_then(|name| name.to_str()).expect("a name").rsplit_once('-');
        let test = test.map_or("test", |(name, _)| name);
        for old in fs::read_dir(&runs).into_iter().flatten().flatten() {
            let name = old.file_name().to_string_lossy().into_owned();
            let Some((of, pid)) = name.rsplit_once('.') else { continue };
            if of == test && !Path::new("/proc").join(pid).exists() {
                let _ = fs::remove_dir_all(old.path());
            }
        }
        let dir = runs.join(format!("{test}.{}", process::id()));
        fs::create_dir_all(&dir).expect("a directory for this run");
        dir
    })
}

/// A free loopback port, below the range from which the kernel takes ports for outgoing connections, and given to nobody
/// else in this process: nobody takes it between this call and its use.
pub fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(10_000..32_000)));
        let is_new = GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(address.port());
        if is_new && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A name that no other test and no other run uses.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
