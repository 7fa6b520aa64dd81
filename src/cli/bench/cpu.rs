//! Processor time, as the kernel counts it.

/// Processor time spent, in clock ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu {
    own: f64,
    machine: f64,
}

impl Cpu {
    /// As `proc(5)` has it.
    pub(super) fn now() -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name, in brackets, may hold anything.
        let fields: Vec<f64> =
            own.rsplit_once(')')?.1.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
        let machine = std::fs::read_to_string("/proc/stat").ok()?;
        let spent: Vec<f64> =
            machine.lines().next()?.split_whitespace().skip(1).flat_map(str::parse).collect();
        // user, nice, system, idle, iowait, irq, softirq
        let busy = spent.get(..7)?.iter().sum::<f64>() - spent[3] - spent[4];
        Some(Self { own: fields.get(11)? + fields.get(12)?, machine: busy })
    }

    /// Milliseconds since, of this process and of all others, for each of `count`.
    pub(super) fn since(start: Option<Self>, count: u64) -> (Option<f64>, Option<f64>) {
        let (Some(start), Some(now)) = (start, Self::now()) else { return (None, None) };
        // Ticks are hundredths of a second wherever Linux shows them.
        let ms = |ticks: f64| Some(ticks * 10.0 / count.max(1) as f64);
        let own = now.own - start.own;
        (ms(own), ms((now.machine - start.machine - own).max(0.0)))
    }
}
