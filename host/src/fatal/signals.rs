//! The handlers themselves. Everything here runs on a thread that has just failed:
//! no allocation, no lock, no formatting.

use std::ptr;
use std::sync::OnceLock;

use libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, c_int, c_void, sigaction, siginfo_t};

use super::culprit::current;
use super::last_words::LastWords;
use super::ranges::{Purpose, file_at};
use crate::error::ExitCode;

/// The signals of failures, each with how a plugin's death by it is told.
const SIGNALS: [(c_int, &str); 5] = [
    (
        SIGSEGV,
        "\" crashed: it accessed memory that is not its own (SIGSEGV)",
    ),
    (
        SIGBUS,
        "\" crashed: it accessed memory that is not there (SIGBUS)",
    ),
    (
        SIGILL,
        "\" crashed: it ran an instruction that this processor does not have (SIGILL)",
    ),
    (SIGFPE, "\" crashed: it divided by zero (SIGFPE)"),
    (SIGABRT, "\" crashed: it aborted (SIGABRT)"),
];

const PLUGIN_HINT: &str = "report this to the authors of the plugin; what was finished is kept, \
                           and no output was replaced";

/// What was installed before, in the order of [`SIGNALS`]: Rust's own handler tells
/// about stack overflows.
static BEFORE: [OnceLock<sigaction>; SIGNALS.len()] = [const { OnceLock::new() }; SIGNALS.len()];

/// Installs the handlers.
pub(super) fn install() {
    for ((signal, _), before) in SIGNALS.iter().zip(&BEFORE) {
        // SAFETY: both structures are plain data, for which zero is a valid value;
        // the handler keeps to what is allowed in one.
        unsafe {
            let mut action: sigaction = std::mem::zeroed();
            let mut previous: sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            // On the thread's alternate stack, if it has one: its own may be used up.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigfillset(&mut action.sa_mask);
            if sigaction(*signal, &action, &mut previous) == 0 {
                let _ = before.set(previous);
            }
        }
    }
    // SAFETY: registers a function that lives as long as the process.
    let _ = unsafe { libc::atexit(on_exit) };
}

extern "C" fn on_signal(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    if signal == SIGBUS {
        // SAFETY: the system hands a valid structure to a handler with SA_SIGINFO, and
        // this signal carries an address.
        let address = unsafe { (*info).si_addr() } as usize;
        blame_the_file(address);
    }
    let told = SIGNALS.iter().position(|(known, _)| *known == signal);
    let Some(place) = told else { return };
    blame_the_plugin(SIGNALS[place].1);
    // Nobody to blame but ourselves. The instruction fails again after the return and
    // gets the treatment that it would have had without us.
    // SAFETY: the action is the one that the system gave out before.
    unsafe {
        match BEFORE[place].get() {
            Some(before) => sigaction(signal, before, ptr::null_mut()),
            None => libc::signal(signal, libc::SIG_DFL) as c_int,
        };
        if signal == SIGABRT {
            libc::raise(signal);
        }
    }
}

/// Returns only if the address belongs to no file.
fn blame_the_file(address: usize) {
    let Some(file) = file_at(address) else { return };
    match file.purpose {
        Purpose::Input => LastWords {
            class: ExitCode::Validation,
            before: "cannot read ",
            name: &file.path,
            after: ": the file was cut short while it was in use, or its disk failed",
            hint: "let downloads and copies finish first, then run the same command again",
        },
        Purpose::Output => LastWords {
            class: ExitCode::DiskSpace,
            before: "cannot write ",
            name: &file.path,
            after: ": the disk is full or failed, or the file was cut short by someone else",
            hint: "free some space, or choose another disk with --output-dir",
        },
    }
    .say_and_exit()
}

/// Returns only if this thread runs no plugin.
fn blame_the_plugin(how: &'static str) {
    let Some(culprit) = current() else { return };
    LastWords {
        class: ExitCode::PluginFailed,
        before: "plugin \"",
        name: culprit.name(),
        after: how,
        hint: PLUGIN_HINT,
    }
    .say_and_exit()
}

/// A plugin that calls `exit` would end the program with a code of its own choice.
extern "C" fn on_exit() {
    blame_the_plugin("\" ended the program, which a plugin must not do");
}
