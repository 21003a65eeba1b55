//! A clock in the hands of a test.

use std::fs;
use std::path::PathBuf;

/// A machine whose clock the test sets: libfaketime between the server and the system, told by a file.
pub struct FalseClock {
    file: PathBuf,
    folder: tempfile::TempDir,
}

impl FalseClock {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Self { file: folder.path().join("clock"), folder };
        clock.set("+0");
        clock
    }

    /// So far from the true time.
    pub fn set(&self, offset: &str) {
        let next = self.folder.path().join("next");
        fs::write(&next, offset).unwrap();
        // Whoever reads meanwhile finds one or the other.
        fs::rename(next, &self.file).unwrap();
    }

    /// What a server is started with so that this is its clock.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let name = "faketime/libfaketimeMT.so.1";
        let folders =
            fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path()).chain([PathBuf::from("/usr/lib")]);
        let library = folders.map(|folder| folder.join(name)).find(|path| path.exists());
        let library = library.expect("libfaketime is missing; scripts/test installs it");
        vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // The count of elapsed time is the system's, and nobody sets it.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}
