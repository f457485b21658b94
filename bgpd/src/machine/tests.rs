use proptest::prelude::*;

use super::*;

const TIMES: Times = Times {
    silence: Duration::from_secs(15),
    end: Duration::from_secs(20),
};

/// At so many milliseconds: what happens, and what it leads to.
type Step = (u64, Input, Option<Action>);

const START: Option<Action> = Some(Action::Start);
const KEEP: Option<Action> = Some(Action::Stop(Ending::Keep));
const FINISH: Option<Action> = Some(Action::Finish);
const ASKED: Option<Action> = Some(Action::Stop(Ending::Withdraw(Why::Asked)));
const SILENT: Option<Action> = Some(Action::Stop(Ending::Withdraw(Why::Silent)));
const UNKNOWN: Option<Action> = Some(Action::Stop(Ending::Withdraw(Why::Unknown)));

use Input::{Alive, Closed, Exited, Terminate, Time};

fn play(name: &str, steps: &[Step]) -> Machine {
    let zero = Instant::now();
    let mut machine = Machine::new(TIMES, zero);
    assert_eq!(machine.step(Time, zero), START, "{name}: it starts at once");
    for &(at, input, expected) in steps {
        let now = zero + Duration::from_millis(at);
        assert_eq!(machine.step(input, now), expected, "{name}: {input:?} at {at} ms");
    }
    machine
}

#[test]
fn stories() {
    let withdraw = |connection| Input::End(connection, End::Withdraw);
    let keep = |connection| Input::End(connection, End::Keep);
    let stories: &[(&str, &[Step])] = &[
        (
            "a speaker that goes on",
            &[
                (1000, Alive(1), None),
                (14_000, Alive(1), None),
                (28_000, Alive(1), None),
            ],
        ),
        (
            "nobody comes",
            &[
                (14_999, Time, None),
                (15_000, Time, SILENT),
                (15_100, Exited, None),
            ],
        ),
        (
            "a speaker dies, and another one comes later",
            &[
                (1000, Alive(1), None),
                (1500, Closed(1), None),
                (15_999, Time, None),
                (16_000, Time, SILENT),
                (16_200, Exited, None),
                (30_000, Time, None),
                (30_500, Alive(2), START),
            ],
        ),
        (
            "a speaker hangs with its connection open",
            &[(1000, Alive(1), None), (16_000, Time, SILENT)],
        ),
        (
            "a speaker is heard while the daemon ends",
            &[
                (1000, Alive(1), None),
                (16_000, Time, SILENT),
                (16_100, Alive(2), None),
                (16_300, Exited, START),
            ],
        ),
        (
            "a speaker is replaced, the old connection closes later",
            &[
                (1000, Alive(1), None),
                (2000, Alive(2), None),
                (2100, withdraw(1), None),
                (2200, Closed(1), None),
                (10_000, Time, None),
            ],
        ),
        (
            "a speaker has withdrawn and closes; another one comes",
            &[
                (1000, Alive(1), None),
                (2000, withdraw(1), None),
                (2010, Closed(1), ASKED),
                (2300, Exited, None),
                (4000, Alive(2), START),
            ],
        ),
        (
            "a speaker has withdrawn and does not close",
            &[
                (1000, Alive(1), None),
                (2000, withdraw(1), None),
                (3999, Time, None),
                (4000, Time, ASKED),
            ],
        ),
        (
            "only the speaker restarts, and keeps its routes",
            &[
                (1000, Alive(1), None),
                (2000, keep(1), None),
                (2010, Closed(1), None),
                (9000, Alive(2), None),
                (9500, Time, None),
            ],
        ),
        (
            "only the speaker restarts, and does not come back",
            &[
                (2000, keep(1), None),
                (2010, Closed(1), None),
                (17_000, Time, SILENT),
            ],
        ),
        (
            "the pod ends: we first, then the speaker, which keeps",
            &[
                (1000, Alive(1), None),
                (2000, Terminate, None),
                (2900, Alive(1), None),
                (3000, keep(1), None),
                (3010, Closed(1), KEEP),
                (3100, Exited, FINISH),
            ],
        ),
        (
            "the pod ends: the speaker first, which keeps",
            &[
                (1000, Alive(1), None),
                (2000, keep(1), None),
                (2010, Closed(1), None),
                (2050, Terminate, KEEP),
                (2100, Exited, FINISH),
            ],
        ),
        (
            "the pod ends: the speaker withdraws, taking its time",
            &[
                (1000, Alive(1), None),
                (2000, Terminate, None),
                (7000, Alive(1), None),
                (8000, withdraw(1), None),
                (8010, Closed(1), ASKED),
                (8200, Exited, FINISH),
            ],
        ),
        (
            "the pod ends: the speaker first, and the daemon with it",
            &[
                (2000, withdraw(1), None),
                (2010, Closed(1), ASKED),
                (2020, Terminate, None),
                (2200, Exited, FINISH),
            ],
        ),
        (
            "the pod ends without a speaker",
            &[(1000, Terminate, UNKNOWN), (1200, Exited, FINISH)],
        ),
        (
            "the pod ends, and the speaker dies meanwhile",
            &[
                (1000, Alive(1), None),
                (2000, Terminate, None),
                (2500, Closed(1), UNKNOWN),
            ],
        ),
        (
            "the pod ends, and the speaker does not",
            &[
                (1000, Alive(1), None),
                (2000, Terminate, None),
                (12_000, Alive(1), None),
                (21_999, Alive(1), None),
                (22_000, Time, UNKNOWN),
            ],
        ),
        (
            "the pod ends, and the speaker hangs",
            &[
                (1000, Alive(1), None),
                (2000, Terminate, None),
                (16_000, Time, SILENT),
            ],
        ),
        (
            "the pod ends after the speaker that kept its routes has been gone for too long",
            &[
                (1000, keep(1), None),
                (1010, Closed(1), None),
                (16_000, Terminate, SILENT),
            ],
        ),
        (
            "the pod ends while the daemon is down",
            &[
                (15_000, Time, SILENT),
                (15_100, Exited, None),
                (16_000, Terminate, FINISH),
            ],
        ),
        (
            "asked twice",
            &[
                (1000, Alive(1), None),
                (2000, Terminate, None),
                (3000, Terminate, None),
                (15_000, Alive(1), None),
                (22_000, Time, UNKNOWN),
                (22_100, Terminate, None),
                (22_200, Exited, FINISH),
            ],
        ),
    ];
    for (name, steps) in stories {
        play(name, steps);
    }
}

#[test]
fn a_daemon_that_dies_is_back_at_once_and_later_if_it_dies_again_and_again() {
    let zero = Instant::now();
    let mut machine = Machine::new(TIMES, zero);
    let mut now = zero;
    assert_eq!(machine.step(Time, now), START);
    let mut delays = Vec::new();
    for _ in 0..9 {
        now += Duration::from_millis(50);
        assert_eq!(machine.step(Alive(1), now), None);
        let died = now;
        let mut next = machine.step(Exited, now);
        while next.is_none() {
            now = machine.deadline(now).expect("it will start");
            next = machine.step(Alive(1), now);
        }
        assert_eq!(next, START);
        delays.push((now - died).as_millis());
    }
    assert_eq!(delays, [0, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    // It has run for long: the slate is clean.
    now += SOUND;
    assert_eq!(machine.step(Alive(1), now), None);
    assert_eq!(machine.step(Exited, now), START);
}

fn event() -> impl Strategy<Value = Input> {
    let connection = 1..=3u64;
    prop_oneof![
        4 => connection.clone().prop_map(Alive),
        1 => connection.clone().prop_map(|connection| Input::End(connection, End::Keep)),
        1 => connection.clone().prop_map(|connection| Input::End(connection, End::Withdraw)),
        2 => connection.prop_map(Closed),
        3 => Just(Exited),
        1 => Just(Terminate),
        2 => Just(Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, with a deadline that is always kept: there are never two daemons, a silent
    /// speaker's routes are withdrawn in time, and a process that is asked to end comes to its end.
    #[test]
    fn nothing_hangs(events in proptest::collection::vec((0..6000u64, event()), 1..60)) {
        let zero = Instant::now();
        let (mut now, mut machine) = (zero, Machine::new(TIMES, zero));
        let (mut up, mut stopping) = (false, false);
        let (mut heard, mut asked) = (zero, None::<Instant>);
        let mut events = events.into_iter().map(|(after, event)| (Duration::from_millis(after), event));
        let mut next = events.next();
        while let Some((after, event)) = next {
            // What is due before the next event comes before it.
            let input = match machine.deadline(now) {
                Some(deadline) if deadline - now <= after => {
                    next = Some((after - (deadline - now), event));
                    now = deadline;
                    Time
                }
                _ => {
                    next = events.next();
                    now += after;
                    if event == Exited && !up && !stopping { Time } else { event }
                }
            };
            match input {
                Alive(_) | Input::End(..) => heard = now,
                Terminate => asked = asked.or(Some(now)),
                Exited => (up, stopping) = (false, false),
                Closed(_) | Time => {}
            }
            match machine.step(input, now) {
                Some(Action::Start) => {
                    prop_assert!(!up && !stopping, "two daemons");
                    up = true;
                }
                Some(Action::Stop(_)) => {
                    prop_assert!(up && !stopping, "no daemon to stop");
                    (up, stopping) = (false, true);
                }
                Some(Action::Finish) => {
                    prop_assert!(asked.is_some() && !up && !stopping, "an end that nobody asked for");
                    return Ok(());
                }
                None => {}
            }
            let silent = now.saturating_duration_since(heard) >= TIMES.silence;
            prop_assert!(!(up && silent), "routes of a silent speaker");
            let late = asked.is_some_and(|asked| now >= asked + TIMES.end);
            prop_assert!(!(up && late), "it does not end");
        }
    }
}

#[test]
fn how_it_is() {
    let now = Instant::now();
    let mut machine = play("fine", &[(0, Alive(1), None)]);
    let (sound, line) = machine.status(now);
    assert!(sound, "{line}");
    assert!(
        line.starts_with("daemon runs; speaker is there, silent for 0.0 s"),
        "{line}"
    );
    let later = now + Duration::from_secs(60);
    machine.step(Time, later);
    machine.step(Exited, later);
    let (sound, line) = machine.status(later);
    assert!(!sound);
    assert!(
        line.starts_with("daemon is down until a speaker is heard"),
        "{line}"
    );
}

#[test]
fn reasons_fit_into_a_shutdown_communication() {
    for why in [Why::Asked, Why::Silent, Why::Unknown] {
        assert!(why.to_string().len() <= 128, "{why}");
    }
}
