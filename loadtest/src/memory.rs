//! Memory of processes, from `/proc/PID/smaps_rollup`.

use crate::cpu;
use anyhow::Context;
use std::{collections::BTreeMap, fs};

/// Bytes in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident: what several processes share counts for each.
    pub resident: u64,
    /// Proportional: what is shared counts in shares, so that sums are true.
    pub proportional: u64,
}

/// Memory of the processes and their descendants, by name.
pub fn used(roots: &[u32]) -> anyhow::Result<BTreeMap<String, Memory>> {
    let mut used: BTreeMap<String, Memory> = BTreeMap::new();
    for process in cpu::tree(roots)? {
        let path = format!("/proc/{}/smaps_rollup", process.pid);
        let text = fs::read_to_string(&path).with_context(|| path)?;
        let memory = parse(&text);
        let sum = used.entry(process.name).or_default();
        sum.resident += memory.resident;
        sum.proportional += memory.proportional;
    }
    Ok(used)
}

fn parse(text: &str) -> Memory {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
        kibibytes.map_or(0, |kibibytes: u64| kibibytes * 1_024)
    };
    Memory { resident: bytes("Rss:"), proportional: bytes("Pss:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_read() {
        let text = "5581-7ffe ---p 00000000 00:00 0  [rollup]\nRss:  2048 kB\nPss:  1024 kB\nPss_Dirty: 9 kB\n";
        assert_eq!(parse(text), Memory { resident: 2 << 20, proportional: 1 << 20 });
    }
}
