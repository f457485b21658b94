//! Tells a person what a long command is doing.

use std::fmt::Display;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// A step that ends within this time is reported by its last line only.
const QUICK: Duration = Duration::from_millis(500);
/// A longer one says this often that it still runs.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Where the lines go.
#[derive(Debug, Clone, Copy)]
enum Sink {
    Stderr,
    Nowhere,
}

/// Reports steps and notes, one line each. Safe to use from several threads: lines never mix.
#[derive(Debug, Clone)]
pub struct Progress {
    sink: Sink,
}

impl Progress {
    /// Reports to standard error, so that standard output stays the command's own.
    pub fn stderr() -> Self {
        Self { sink: Sink::Stderr }
    }

    /// Says nothing.
    pub fn quiet() -> Self {
        Self { sink: Sink::Nowhere }
    }

    /// Prints one line.
    pub fn note(&self, line: &str) {
        match self.sink {
            Sink::Stderr => eprintln!("  {line}"),
            Sink::Nowhere => {}
        }
    }

    /// Runs `f` and reports how it ended and how long it took; while it runs, says so from time to time.
    pub fn step<T, E>(&self, what: &str, f: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let began = Instant::now();
        let (done, wait) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || self.beat(what, began, &wait));
            let result = f();
            // Dropping the sender ends the thread at once.
            drop(done);
            let seconds = began.elapsed().as_secs_f64();
            match &result {
                Ok(_) => self.print("✓", what, &format_args!("{seconds:.1} s")),
                Err(_) => self.print("✗", what, &format_args!("failed after {seconds:.1} s")),
            }
            result
        })
    }

    fn beat(&self, what: &str, began: Instant, done: &mpsc::Receiver<()>) {
        if done.recv_timeout(QUICK) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        self.print("…", what, &"running");
        while done.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
            self.print("…", what, &format_args!("{} s", began.elapsed().as_secs()));
        }
    }

    fn print(&self, mark: &str, what: &str, how: &dyn Display) {
        match self.sink {
            Sink::Stderr => eprintln!("{mark} {what} ({how})"),
            Sink::Nowhere => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_hands_its_result_on_and_does_not_wait_for_the_heartbeat() {
        let progress = Progress::stderr();
        let began = Instant::now();
        assert_eq!(progress.step("adding", || Ok::<_, ()>(1 + 1)), Ok(2));
        assert_eq!(progress.step("failing", || Err::<(), _>("why")), Err("why"));
        assert!(began.elapsed() < QUICK, "took {:?}", began.elapsed());
    }
}
