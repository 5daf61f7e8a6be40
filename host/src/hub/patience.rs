//! How long to go on trying, and how long to wait between.

use std::time::{Duration, Instant, SystemTime};

use super::client::Repository;
use super::failure::Failure;
use crate::output::duration;

/// Tries in a row that bring nothing before it is given up.
const TRIES: u32 = 5;
/// Tries at a server that never answered: it is not there, or the machine has no
/// connection.
const FIRST_TRIES: u32 = 2;
/// The first wait; each later one is twice as long.
const FIRST: Duration = Duration::from_millis(500);
/// Waits of all tries together, as far as the server decides about them.
const MOST: Duration = Duration::from_secs(300);
/// How often the user's interrupt is looked for.
const TICK: Duration = Duration::from_millis(50);

/// What is left of the patience with one request.
#[derive(Debug)]
pub struct Patience {
    failures: u32,
    waited: Duration,
}

impl Patience {
    /// All of it.
    pub fn new() -> Self {
        Self {
            failures: 0,
            waited: Duration::ZERO,
        }
    }

    /// Something came: what follows is a new difficulty.
    pub fn renew(&mut self) {
        *self = Self::new();
    }

    /// Waits until it is time for another try, and tells the user.
    ///
    /// # Errors
    /// The failure, if it is for good or there were too many; an interrupt.
    pub fn wait(&mut self, repository: &Repository, failure: Failure) -> Result<(), Failure> {
        let Failure::Passing { what, wait } = failure else {
            return Err(failure);
        };
        repository.check()?;
        let tries = match repository.has_answered() {
            true => TRIES,
            false => FIRST_TRIES,
        };
        let Some(time) = self.next(wait, tries) else {
            let what = match wait {
                Some(wait) if self.failures < tries => format!(
                    "{what}; it asks to wait for {}, which is too long",
                    duration(wait)
                ),
                _ => what,
            };
            return Err(Failure::Passing { what, wait });
        };
        let seconds = time.as_secs_f64();
        let message = format!("{what}; trying again in {seconds:.1} s");
        repository.ui().warn(&message);
        let until = Instant::now() + time;
        while Instant::now() < until {
            std::thread::sleep(TICK.min(until.saturating_duration_since(Instant::now())));
            repository.check()?;
        }
        Ok(())
    }

    /// The next wait; `None` if it is time to give up.
    fn next(&mut self, asked: Option<Duration>, tries: u32) -> Option<Duration> {
        self.failures += 1;
        if self.failures >= tries {
            return None;
        }
        let own = FIRST * 2u32.pow(self.failures - 1);
        let time = asked.unwrap_or(own);
        self.waited = self.waited.saturating_add(time);
        (self.waited <= MOST).then_some(time)
    }
}

/// Tries until it works, fails for good, or patience ends.
///
/// # Errors
/// The last failure.
pub fn patiently<T>(
    repository: &Repository,
    mut request: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut patience = Patience::new();
    loop {
        match request() {
            Ok(value) => return Ok(value),
            Err(failure) => patience.wait(repository, failure)?,
        }
    }
}

/// The wait of a `Retry-After` header: seconds, or a date.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// The wait of the `RateLimit` header that the Hub sends: `"api";r=0;t=55` has none
/// left and 55 seconds to go.
pub fn rate_limit(value: &str) -> Option<Duration> {
    let field = |name: &str| {
        let mut parts = value.split([';', ',']).map(str::trim);
        parts.find_map(|part| part.strip_prefix(name)?.parse::<u64>().ok())
    };
    (field("r=") == Some(0)).then_some(())?;
    field("t=").map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_takes_seconds_and_dates() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let seconds = |value| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(seconds(" 7 "), Some(7));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:00 GMT"), Some(0));
        assert_eq!(seconds("soon"), None);
        assert_eq!(seconds("-1"), None);
    }

    #[test]
    fn the_hubs_own_header() {
        assert_eq!(
            rate_limit("\"api\";r=0;t=55"),
            Some(Duration::from_secs(55))
        );
        assert_eq!(rate_limit("\"api\";r=3;t=55"), None);
        assert_eq!(rate_limit(""), None);
    }

    #[test]
    fn patience_ends() {
        let mut patience = Patience::new();
        let waits: Vec<_> = std::iter::from_fn(|| patience.next(None, TRIES)).collect();
        assert_eq!(waits.len(), 4);
        assert_eq!(waits[0] * 8, waits[3]);
        patience.renew();
        assert!(
            patience
                .next(Some(Duration::from_secs(200)), TRIES)
                .is_some()
        );
        assert!(
            patience
                .next(Some(Duration::from_secs(200)), TRIES)
                .is_none()
        );
        patience.renew();
        assert!(
            patience
                .next(Some(Duration::from_secs(u64::MAX)), TRIES)
                .is_none()
        );
    }
}
