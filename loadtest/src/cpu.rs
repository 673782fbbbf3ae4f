//! Processor time of processes and of all their children, from `/proc`.

use anyhow::{Context, ensure};
use std::{collections::BTreeMap, fs, io};

/// Of a second, what one tick in `/proc/PID/stat` is: fixed by the kernel's interface (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// A process as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    /// Its own time, and that of children which have ended and were waited for. The latter makes
    /// the sum over a tree complete: a child that ends hands its time to its parent.
    ticks: u64,
    /// Names the part that it plays: `weir up`, `weir __engine`, `postgres`.
    pub name: String,
}

/// The processor time used so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    by_name: BTreeMap<String, u64>,
    /// Of the processes that were asked for, without their descendants that still run. Whatever
    /// they are called: a program may be renamed.
    roots: u64,
}

/// The processor time used between two looks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spent {
    /// Seconds by name, the greatest first.
    pub parts: Vec<(String, f64)>,
    /// Seconds of the processes that were asked for, without their descendants.
    pub roots: f64,
}

/// The time of all the machine's processors so far, and what of it its host gave to others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Machine {
    all: u64,
    stolen: u64,
}

impl Machine {
    /// Zero where the kernel does not tell.
    pub fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// The first line: user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of
    /// user and nice.
    fn parse(stat: &str) -> Self {
        let numbers = stat.split_ascii_whitespace().skip(1).take(8);
        let ticks: Vec<u64> = numbers.map_while(|text| text.parse().ok()).collect();
        Self { all: ticks.iter().sum(), stolen: ticks.get(7).copied().unwrap_or(0) }
    }

    /// Percent of the time since `earlier` that the host gave to others.
    pub fn stolen_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64 * 100.0
    }
}

/// What the processes and all their descendants have used so far.
pub fn used(roots: &[u32]) -> anyhow::Result<Used> {
    let tree = tree(roots)?;
    Ok(Used::of(&tree, roots))
}

/// What this process has used so far, in seconds.
pub fn own() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    parse(&text).map_or(0.0, |process| process.ticks as f64 / TICKS_PER_SECOND)
}

/// The processes and all their descendants. Errors: one of them does not run.
pub fn tree(roots: &[u32]) -> anyhow::Result<Vec<Process>> {
    let all = all().context("reading /proc")?;
    for root in roots {
        ensure!(all.iter().any(|process| process.pid == *root), "no process has the id {root}");
    }
    Ok(descendants(&all, roots))
}

fn all() -> io::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that ends meanwhile is none.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(mut process) = parse(&stat) {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            process.name = name_of(&command).unwrap_or(process.name);
            processes.push(process);
        }
    }
    Ok(processes)
}

fn descendants(all: &[Process], roots: &[u32]) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    let mut next: Vec<u32> = roots.to_vec();
    while let Some(pid) = next.pop() {
        if found.iter().any(|process| process.pid == pid) {
            continue;
        }
        found.extend(all.iter().find(|process| process.pid == pid).cloned());
        next.extend(all.iter().filter(|process| process.parent == pid).map(|process| process.pid));
    }
    found
}

/// Reads `/proc/PID/stat`: the name is in parentheses and may hold anything, so fields count from
/// the last closing one.
fn parse(stat: &str) -> Option<Process> {
    let (head, tail) = stat.rsplit_once(')')?;
    let (pid, name) = head.split_once(" (")?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // proc(5) counts from 1 and the name is field 2: here field 3 has index 0.
    let ticks = (11..=14).map(number).sum::<Option<u64>>()?;
    Some(Process {
        pid: pid.trim().parse().ok()?,
        parent: u32::try_from(number(1)?).ok()?,
        ticks,
        name: name.to_owned(),
    })
}

/// From a command line: the program, and its subcommand if the first argument looks like one.
fn name_of(command: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(command);
    let mut words = text.split('\0').filter(|word| !word.is_empty());
    // Postgres writes "postgres: weir weir [local] idle" over its arguments.
    let first = words.next()?.split(':').next()?;
    let program = first.rsplit('/').next().filter(|name| !name.is_empty())?;
    let is_subcommand = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    Some(match words.next().filter(is_subcommand) {
        Some(subcommand) => format!("{program} {subcommand}"),
        None => program.to_owned(),
    })
}

impl Used {
    fn of(processes: &[Process], roots: &[u32]) -> Self {
        let mut used = Self::default();
        for process in processes {
            *used.by_name.entry(process.name.clone()).or_default() += process.ticks;
            if roots.contains(&process.pid) {
                used.roots += process.ticks;
            }
        }
        used
    }

    /// What was used since `earlier`.
    pub fn since(&self, earlier: &Self) -> Spent {
        let seconds = |ticks: u64| ticks as f64 / TICKS_PER_SECOND;
        let mut parts: Vec<_> = self
            .by_name
            .iter()
            .map(|(name, ticks)| {
                let before = earlier.by_name.get(name).copied().unwrap_or(0);
                (name.clone(), seconds(ticks.saturating_sub(before)))
            })
            .collect();
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        Spent { parts, roots: seconds(self.roots.saturating_sub(earlier.roots)) }
    }
}

impl Spent {
    /// Seconds of all.
    pub fn total(&self) -> f64 {
        self.parts.iter().map(|(_, seconds)| seconds).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, ticks: u64, name: &str) -> Process {
        Process { pid, parent, ticks, name: name.to_owned() }
    }

    #[test]
    fn a_stat_line_is_read_whatever_its_name() {
        let stat = "42 (a) b (c)) S 7 42 42 0 -1 4194304 9 8 7 6 100 20 3 4 20 0 5 0 99 1 2";
        assert_eq!(parse(stat), Some(process(42, 7, 127, "a) b (c)")));
        assert_eq!(parse("42 (short) S 7"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn processes_are_named_by_program_and_subcommand() {
        for (command, name) in [
            ("/opt/weir\0up\0--data\0/x\0", "weir up"),
            ("target/release/weir\0__engine\0/var/x\0", "weir __engine"),
            ("/usr/lib/postgresql/17/bin/postgres\0-D\0/x\0", "postgres"),
            ("postgres: checkpointer \0\0\0", "postgres"),
            ("java\0-Xmx1G\0kafka.Kafka\0", "java"),
        ] {
            assert_eq!(name_of(command.as_bytes()).as_deref(), Some(name));
        }
        assert_eq!(name_of(b""), None);
    }

    #[test]
    fn only_the_roots_and_their_descendants_count() {
        let all = [
            process(1, 0, 1, "init"),
            process(10, 1, 5, "weir"),
            process(11, 10, 7, "postgres"),
            process(12, 11, 2, "postgres"),
            process(20, 1, 100, "other"),
        ];
        let used = Used::of(&descendants(&all, &[10, 11]), &[10, 11]);
        let by_name = [("weir".into(), 5), ("postgres".into(), 9)].into();
        assert_eq!(used, Used { by_name, roots: 12 });
    }

    #[test]
    fn spent_is_the_difference_with_the_costliest_first() {
        let at = |weir, postgres| Used {
            by_name: [("weir".into(), weir), ("postgres".into(), postgres)].into(),
            roots: weir,
        };
        let spent = at(150, 90).since(&at(50, 40));
        assert_eq!(spent.parts, [("weir".to_owned(), 1.0), ("postgres".to_owned(), 0.5)]);
        assert!((spent.total() - 1.5).abs() < 1e-9 && (spent.roots - 1.0).abs() < 1e-9);
        // A process that has come meanwhile counts from zero.
        assert!((at(100, 0).since(&Used::default()).total() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn time_that_the_host_gave_to_others_is_told() {
        let earlier = Machine::parse("cpu  10 0 10 70 0 0 0 10 3 0\ncpu0 5 0 5 35 0 0 0 5 0 0\n");
        assert_eq!(earlier, Machine { all: 100, stolen: 10 });
        let later = Machine { all: 300, stolen: 60 };
        assert!((later.stolen_since(earlier) - 25.0).abs() < 1e-9);
        assert_eq!(Machine::parse(""), Machine::default());
    }

    #[test]
    fn our_own_process_is_found() {
        let found = tree(&[std::process::id()]).unwrap();
        assert!(found.iter().any(|process| process.pid == std::process::id()));
        assert!(tree(&[u32::MAX]).is_err());
    }
}
