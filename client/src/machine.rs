//! How busy this machine's processors are: a figure is incomplete without what limited it.

/// Processor time, in the kernel's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessorTime {
    busy: u64,
    all: u64,
    /// How many processors there are.
    processors: usize,
}

/// How busy the processors were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Busy {
    /// The busy share of all processors.
    pub(crate) share: f64,
    /// The same, as a number of processors.
    pub(crate) processors: f64,
}

impl ProcessorTime {
    /// Time since the machine was started; `None` if the system does not report it.
    pub(crate) fn now() -> Option<Self> {
        Self::read(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    fn read(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks = line.split_whitespace().map(|field| field.parse::<u64>().ok());
        // user, nice, system, idle, iowait, irq, softirq, steal; guest time is included in user.
        let ticks: Vec<u64> = ticks.take(8).collect::<Option<_>>()?;
        let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0);
        let all = ticks.iter().sum();
        let is_processor = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
        let processors = text.lines().filter(is_processor).count();
        Some(Self { busy: all - idle, all, processors })
    }

    /// How busy the processors have been since `earlier`.
    pub(crate) fn busy_since(earlier: Option<Self>) -> Option<Busy> {
        Self::now()?.busy_from(earlier?)
    }

    fn busy_from(self, earlier: Self) -> Option<Busy> {
        let all = self.all.checked_sub(earlier.all).filter(|ticks| *ticks > 0)?;
        let share = self.busy.saturating_sub(earlier.busy) as f64 / all as f64;
        Some(Busy { share, processors: share * self.processors as f64 })
    }
}

#[cfg(test)]
mod tests {
    use super::ProcessorTime;

    #[test]
    fn what_is_not_idle_is_busy() {
        let read = |text: &str| ProcessorTime::read(text).unwrap();
        let one = read("cpu  100 0 50 800 50 0 0 0 9 9\ncpu0 1 1 1 1\n");
        let other = read("cpu  160 0 60 820 60 0 0 0 9 9\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 5\n");
        assert_eq!((one.busy, one.all), (150, 1000));
        let busy = other.busy_from(one).unwrap();
        assert!((busy.share - 0.7).abs() < 1e-9 && (busy.processors - 1.4).abs() < 1e-9);
        assert_eq!(one.busy_from(one), None, "no time has passed");
        for text in ["", "cpu", "cpu  1 2 x 4", "intr 5"] {
            assert_eq!(ProcessorTime::read(text), None, "{text}");
        }
    }
}
