//! What the node agent's reports are worth.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use fairlead_core::announce::DataPath;
use fairlead_runtime::link::{AgentReport, AgentView};
use tokio::sync::watch;

/// How long the last report holds after the node agent has gone: its rules stay in the kernel meanwhile.
pub const HOLD: Duration = Duration::from_secs(30);
/// A change that has been unapplied for longer makes the data path stale.
pub const UNAPPLIED_LIMIT: Duration = Duration::from_secs(10);

/// The last report that says something.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    report: Option<AgentReport>,
    seen: Option<Instant>,
    /// The agent is connected, and what it says is in `report`.
    current: bool,
    clean: bool,
}

impl Memory {
    /// Takes in the present view, and answers whether it says anything new: a report that was only repeated does not.
    /// A restarted agent reports plan 0 until it has planned; that says nothing yet about the kernel, in which the
    /// rules of the agent before it still are.
    pub fn observe(&mut self, view: &AgentView) -> bool {
        let clean = view.last.as_ref().is_some_and(|report| report.clean);
        let planned = view.last.as_ref().filter(|report| report.plan > 0);
        let current = view.connected && planned.is_some();
        let mut news = clean != self.clean || current != self.current;
        self.clean = clean;
        self.current = current;
        if let (Some(report), Some(seen)) = (planned, view.last_seen)
            && self.seen.is_none_or(|known| seen > known)
        {
            if self.report.as_ref() != Some(report) {
                self.report = Some(report.clone());
                news = true;
            }
            self.seen = Some(seen);
        }
        news
    }

    /// Waits for a view that says something new, and has taken it in then. Cancel safe.
    pub async fn news(&mut self, view: &mut watch::Receiver<AgentView>) {
        loop {
            if view.changed().await.is_err() {
                // Whoever keeps the connection has ended, which is noticed elsewhere.
                return std::future::pending().await;
            }
            if self.observe(&view.borrow_and_update()) {
                return;
            }
        }
    }

    /// Has the agent ever reported a plan?
    pub fn answered(&self) -> bool {
        self.report.is_some()
    }

    /// The verdict for each of these addresses.
    pub fn verdicts(
        &self,
        addresses: impl IntoIterator<Item = IpAddr>,
        now: Instant,
    ) -> BTreeMap<IpAddr, DataPath> {
        addresses
            .into_iter()
            .map(|address| (address, self.verdict(address, now)))
            .collect()
    }

    fn verdict(&self, address: IpAddr, now: Instant) -> DataPath {
        let Some(report) = &self.report else {
            return DataPath::NotProgrammed("the node agent cannot be reached".into());
        };
        if self.expired(now) {
            let message = format!("the node agent has been gone for more than {} s", HOLD.as_secs());
            return DataPath::Stale(message);
        }
        match report.addresses.get(&address) {
            None => DataPath::NotProgrammed("the node agent has not programmed this address".into()),
            Some(entry) => match entry.unapplied_ms.map(Duration::from_millis) {
                Some(age) if age > UNAPPLIED_LIMIT => DataPath::Stale(format!(
                    "a change has not been programmed for more than {} s",
                    UNAPPLIED_LIMIT.as_secs()
                )),
                _ => DataPath::Programmed,
            },
        }
    }

    /// When the last report will have held for too long, unless another one comes.
    pub fn expires(&self) -> Option<Instant> {
        if self.current {
            return None;
        }
        self.seen.map(|seen| seen + HOLD)
    }

    /// Has the agent reported within [`HOLD`]?
    pub fn connected(&self, now: Instant) -> bool {
        self.report.is_some() && !self.expired(now)
    }

    /// Number of the plan in the kernel.
    pub fn plan(&self) -> u64 {
        self.report.as_ref().map_or(0, |report| report.plan)
    }

    /// Number of programmed addresses.
    pub fn programmed(&self) -> usize {
        self.report.as_ref().map_or(0, |report| report.addresses.len())
    }

    /// Which sources count as pods of this node, in words.
    pub fn pod_sources(&self) -> &str {
        self.report.as_ref().map_or("", |report| &report.pod_sources)
    }

    /// The installation is leaving and no rule is left.
    pub fn clean(&self) -> bool {
        self.clean
    }

    fn expired(&self, now: Instant) -> bool {
        self.expires().is_some_and(|end| now > end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_runtime::link::AddressReport;

    fn vip() -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    fn view(
        plan: u64,
        programmed: bool,
        unapplied_ms: Option<u64>,
        connected: bool,
        seen: Instant,
    ) -> AgentView {
        let entry = AddressReport { plan, unapplied_ms };
        AgentView {
            last: Some(AgentReport {
                plan,
                addresses: programmed.then_some((vip(), entry)).into_iter().collect(),
                ..AgentReport::default()
            }),
            connected,
            last_seen: Some(seen),
        }
    }

    fn word(memory: &Memory, now: Instant) -> &'static str {
        match memory.verdict(vip(), now) {
            DataPath::Programmed => "programmed",
            DataPath::NotProgrammed(_) => "not programmed",
            DataPath::Stale(_) => "stale",
        }
    }

    #[test]
    fn verdicts() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut memory = Memory::default();
        memory.observe(&AgentView::default());
        assert_eq!(
            (word(&memory, start), memory.answered()),
            ("not programmed", false)
        );
        memory.observe(&view(1, false, None, true, at(1)));
        assert_eq!(
            (word(&memory, at(1)), memory.answered()),
            ("not programmed", true)
        );
        memory.observe(&view(2, true, None, true, at(2)));
        assert_eq!(word(&memory, at(2)), "programmed");
        memory.observe(&view(2, true, Some(10_000), true, at(3)));
        assert_eq!(word(&memory, at(3)), "programmed");
        memory.observe(&view(2, true, Some(10_001), true, at(4)));
        assert_eq!(word(&memory, at(4)), "stale");
    }

    #[test]
    fn the_last_report_of_a_lost_agent_holds_for_thirty_seconds() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut memory = Memory::default();
        memory.observe(&view(2, true, None, true, start));
        assert_eq!(memory.expires(), None);
        memory.observe(&view(2, true, None, false, start));
        assert_eq!(memory.expires(), Some(at(30)));
        assert_eq!(word(&memory, at(30)), "programmed");
        assert_eq!(word(&memory, at(31)), "stale");
        assert!(memory.connected(at(30)) && !memory.connected(at(31)));
        memory.observe(&view(3, true, None, true, at(40)));
        assert_eq!(word(&memory, at(40)), "programmed");
    }

    #[test]
    fn a_restarted_agent_that_has_not_planned_says_nothing_about_the_kernel() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut memory = Memory::default();
        memory.observe(&view(7, true, None, true, start));
        memory.observe(&view(0, false, None, true, at(2)));
        assert_eq!(word(&memory, at(2)), "programmed");
        assert_eq!(memory.expires(), Some(at(30)), "and it does not hold for ever");
        memory.observe(&view(1, false, None, true, at(3)));
        assert_eq!(word(&memory, at(3)), "not programmed");
    }

    #[test]
    fn a_repeated_report_is_no_news_and_keeps_the_data_path_fresh() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut memory = Memory::default();
        assert!(!memory.observe(&AgentView::default()));
        assert!(memory.observe(&view(2, true, None, true, start)));
        for seconds in 1..100 {
            assert!(!memory.observe(&view(2, true, None, true, at(seconds))));
        }
        assert!(memory.observe(&view(2, true, Some(5), true, at(100))));
        assert!(memory.observe(&view(3, false, None, true, at(101))));
        assert!(
            memory.observe(&view(3, false, None, false, at(101))),
            "it is gone"
        );
        assert!(!memory.observe(&view(3, false, None, false, at(101))));
        assert_eq!(
            memory.expires(),
            Some(at(131)),
            "counted from the last repetition"
        );
        assert!(memory.observe(&view(3, false, None, true, at(102))), "it is back");
    }

    #[tokio::test(start_paused = true)]
    async fn only_news_wake() {
        let start = Instant::now();
        let (sender, mut receiver) = watch::channel(view(2, true, None, true, start));
        let mut memory = Memory::default();
        memory.observe(&receiver.borrow_and_update());
        for seconds in 1..5 {
            sender.send_replace(view(2, true, None, true, start + Duration::from_secs(seconds)));
            let woken = tokio::time::timeout(Duration::from_secs(1), memory.news(&mut receiver)).await;
            assert!(woken.is_err(), "a repetition");
        }
        assert_eq!(memory.seen, Some(start + Duration::from_secs(4)));
        sender.send_replace(view(3, true, None, true, start + Duration::from_secs(5)));
        let woken = tokio::time::timeout(Duration::from_secs(1), memory.news(&mut receiver)).await;
        assert!(woken.is_ok());
    }
}
