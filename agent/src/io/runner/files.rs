//! Files, clock and memory of a process, as the runtime asks for them.
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Instant;

use crate::runtime::Organs;

/// The real ones.
#[derive(Debug, Clone)]
pub struct FileOrgans {
    root: PathBuf,
    started: Instant,
    whole_process: bool,
}

impl FileOrgans {
    /// For the runner, a process that holds models and nothing else: its memory is the model's. Paths are relative to `root`.
    pub fn of_runner(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), started: Instant::now(), whole_process: true }
    }

    /// For a program that does more than run one device's models; the memory limit is not judged there.
    pub fn in_process(root: impl Into<PathBuf>) -> Self {
        Self { whole_process: false, ..Self::of_runner(root) }
    }
}

impl Organs for FileOrgans {
    fn read(&mut self, path: &str, most: u64) -> Result<Vec<u8>, String> {
        let full = self.root.join(path);
        let failed = |error: std::io::Error| format!("{}: {error}", full.display());
        let mut bytes = Vec::new();
        // One byte more than allowed tells too long from just long enough, whatever the directory says of the length.
        File::open(&full).map_err(failed)?.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > most {
            return Err(format!("{} has more than {most} bytes", full.display()));
        }
        Ok(bytes)
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn resident_bytes(&self) -> u64 {
        if !self.whole_process {
            return 0;
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_up_to_their_bound_and_errors_name_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), [7; 10]).unwrap();
        let mut organs = FileOrgans::of_runner(dir.path());
        assert_eq!(organs.read("f", 10), Ok(vec![7; 10]));
        assert!(organs.read("f", 9).unwrap_err().contains("more than 9 bytes"));
        assert!(organs.read("g", 9).unwrap_err().contains("/g: "));
        assert!(organs.resident_bytes() > 1_000_000);
        assert_eq!(FileOrgans::in_process("/").resident_bytes(), 0);
        assert!(organs.nanos() <= organs.nanos());
    }
}
