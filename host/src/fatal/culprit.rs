//! Which plugin's code a thread is running.

use std::cell::Cell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::last_words::shown;

/// A plugin that may turn out to be the culprit.
#[derive(Debug, Clone, Copy)]
pub struct Culprit(&'static str);

impl Culprit {
    pub(super) fn name(self) -> &'static str {
        self.0
    }
}

thread_local! {
    /// Constant at start and without a destructor, so that a signal handler may read it.
    static CURRENT: Cell<Option<Culprit>> = const { Cell::new(None) };
}

/// The plugin whose code this thread runs, if any.
pub fn current() -> Option<Culprit> {
    CURRENT.get()
}

/// Marks this thread as running a plugin's code until the guard is dropped.
///
/// Threads that work for a plugin's loop get the mark of the thread that started it:
/// give `culprit` from [`current`] there.
#[must_use = "the mark goes when the guard is dropped"]
pub fn in_plugin(culprit: Option<Culprit>) -> InPlugin {
    InPlugin {
        before: CURRENT.replace(culprit),
        not_send: PhantomData,
    }
}

impl From<&str> for Culprit {
    /// The same plugin always gives the same culprit; its name is kept for ever.
    fn from(plugin: &str) -> Self {
        static KNOWN: LazyLock<Mutex<HashMap<String, Culprit>>> = LazyLock::new(Mutex::default);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(culprit) = known.get(plugin) {
            return *culprit;
        }
        let culprit = Self(String::leak(shown(plugin)));
        known.insert(plugin.to_owned(), culprit);
        culprit
    }
}

/// See [`in_plugin`].
#[derive(Debug)]
pub struct InPlugin {
    before: Option<Culprit>,
    /// The mark belongs to the thread that set it.
    not_send: PhantomData<*const ()>,
}

impl Drop for InPlugin {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_nest_and_belong_to_their_thread() {
        let name = || current().map(Culprit::name);
        assert_eq!(name(), None);
        let outer = in_plugin(Some("outer".into()));
        {
            let _inner = in_plugin(Some("inner".into()));
            assert_eq!(name(), Some("inner"));
            std::thread::scope(|scope| {
                scope.spawn(|| assert!(current().is_none()));
            });
        }
        assert_eq!(name(), Some("outer"));
        drop(outer);
        assert_eq!(name(), None);
        let names = ["a", "a"].map(|name| Culprit::from(name).name());
        assert!(std::ptr::eq(names[0], names[1]));
    }
}
