//! Signals to the processes of servers.

use std::collections::BTreeMap;
use std::process::Command;

/// Stops a process and those it has started, as SIGSTOP does: they answer nothing and lose nothing.
pub fn pause(pid: u32) {
    tell("STOP", pid);
    for child in children(pid) {
        tell("STOP", child);
    }
}

/// Lets them go on.
pub fn resume(pid: u32) {
    for child in children(pid) {
        tell("CONT", child);
    }
    tell("CONT", pid);
}

/// One number of `/proc/PID/status`, such as `VmRSS` in KiB.
pub fn status(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(&format!("{key}:"))).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// One that has ended is as good.
fn tell(signal: &str, pid: u32) {
    let _ = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).output();
}

/// Everything below a process.
fn children(pid: u32) -> Vec<u32> {
    let mut below: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(child) = entry.file_name().to_string_lossy().parse() else { continue };
        // It may have ended since.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let parent = after_name.split_whitespace().nth(1).and_then(|text| text.parse().ok());
        below.entry(parent.unwrap_or(0)).or_default().push(child);
    }
    let mut found = below.remove(&pid).unwrap_or_default();
    let mut looked = 0;
    while looked < found.len() {
        found.extend(below.remove(&found[looked]).unwrap_or_default());
        looked += 1;
    }
    found
}
