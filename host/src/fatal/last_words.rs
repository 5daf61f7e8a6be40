//! The error that is told by a process that is about to die.
//!
//! Written out of a buffer that is there from the start: a signal handler may not
//! allocate, and its stack is small.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::ExitCode;
use crate::output::printable;

/// Whether results are wanted as JSON.
static JSON: AtomicBool = AtomicBool::new(false);

pub(super) fn want_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

/// A name as it is shown: one line without control characters. To be made
/// beforehand: this allocates.
pub(super) fn shown(name: &str) -> String {
    printable(name).replace(['\n', '\t'], " ")
}

/// What is said: fixed words around one name.
pub(super) struct LastWords<'a> {
    pub(super) class: ExitCode,
    pub(super) before: &'static str,
    pub(super) name: &'a str,
    pub(super) after: &'static str,
    pub(super) hint: &'static str,
}

impl LastWords<'_> {
    /// The lines for stderr.
    pub(super) fn for_people(&self, out: &mut Buffer) {
        out.push("[llm-quantize] Error: ");
        for part in self.message() {
            out.push(part);
        }
        out.push("\n[llm-quantize] Hint: ");
        out.push(self.hint);
        out.push("\n");
    }

    /// The document for stdout.
    pub(super) fn as_json(&self, out: &mut Buffer) {
        out.push("{\"status\":\"error\",\"error_code\":");
        out.push_number(self.class.code());
        out.push(",\"error_type\":\"");
        out.push(self.class.error_type());
        out.push("\",\"message\":\"");
        for part in self.message() {
            out.push_escaped(part);
        }
        out.push("\",\"suggestion\":\"");
        out.push_escaped(self.hint);
        out.push("\"}\n");
    }

    fn message(&self) -> [&str; 3] {
        [self.before, self.name, self.after]
    }

    /// Says it and ends the process at once, without any destructor.
    #[cfg(unix)]
    pub(super) fn say_and_exit(&self) -> ! {
        static BUFFER: Mutex<Buffer> = Mutex::new(Buffer::new());
        let Ok(mut buffer) = BUFFER.try_lock() else {
            // Another thread is saying its last words; it ends this one, too.
            loop {
                // SAFETY: allowed in signal handlers; returns after a signal.
                unsafe { libc::pause() };
            }
        };
        self.for_people(&mut buffer);
        buffer.write_to(libc::STDERR_FILENO);
        if JSON.load(Ordering::Relaxed) {
            buffer.len = 0;
            self.as_json(&mut buffer);
            buffer.write_to(crate::output::result_descriptor());
        }
        // SAFETY: `_exit` may be called anywhere, in a signal handler too.
        unsafe { libc::_exit(i32::from(self.class.code())) }
    }
}

/// A text of limited length; what does not fit is left out.
pub(super) struct Buffer {
    bytes: [u8; 8192],
    len: usize,
}

impl Buffer {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; 8192],
            len: 0,
        }
    }

    fn push(&mut self, text: &str) {
        let room = &mut self.bytes[self.len..];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.len += count;
    }

    /// Pushes a text between the quotes of a JSON string.
    fn push_escaped(&mut self, text: &str) {
        for part in text.split_inclusive(['"', '\\']) {
            let plain = part.trim_end_matches(['"', '\\']);
            self.push(plain);
            if let Some(special) = part.get(plain.len()..).filter(|rest| !rest.is_empty()) {
                self.push("\\");
                self.push(special);
            }
        }
    }

    fn push_number(&mut self, number: u8) {
        let digits = [number / 100, number / 10 % 10, number % 10].map(|digit| b'0' + digit);
        let skip = usize::from(number < 100) + usize::from(number < 10);
        let text = std::str::from_utf8(&digits[skip..]);
        self.push(text.unwrap_or_default());
    }

    #[cfg(unix)]
    fn write_to(&self, descriptor: i32) {
        // SAFETY: `write` is allowed in signal handlers, and the buffer outlives it.
        // If nobody listens, there is nothing left to do about it.
        let _ = unsafe { libc::write(descriptor, self.bytes.as_ptr().cast(), self.len) };
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::ErrorReport;

    fn words(name: &str) -> LastWords<'_> {
        LastWords {
            class: ExitCode::Interrupted,
            before: "the plugin \"",
            name,
            after: "\" crashed",
            hint: "say \"no\"",
        }
    }

    #[test]
    fn the_document_is_that_of_every_failure() {
        let name = shown("a\"b\\\\c\u{1b}ü\n");
        let mut buffer = Buffer::new();
        words(&name).as_json(&mut buffer);
        let told: serde_json::Value = serde_json::from_str(buffer.text()).unwrap();
        let error = crate::Error::new(
            ExitCode::Interrupted,
            format!("the plugin \"{name}\" crashed"),
        )
        .suggest("say \"no\"");
        assert_eq!(
            told,
            serde_json::to_value(ErrorReport::new(&error)).unwrap()
        );
    }

    #[test]
    fn numbers_have_no_leading_zeros_and_names_no_control_characters() {
        for (number, text) in [(0, "0"), (6, "6"), (12, "12"), (130, "130")] {
            let mut buffer = Buffer::new();
            buffer.push_number(number);
            assert_eq!(buffer.text(), text);
        }
        let mut buffer = Buffer::new();
        words(&shown("x\u{1b}[2J\n")).for_people(&mut buffer);
        assert!(!buffer.text().contains('\u{1b}'), "{:?}", buffer.text());
        assert_eq!(buffer.text().lines().count(), 2);
    }

    #[test]
    fn a_full_buffer_drops_the_rest() {
        let mut buffer = Buffer::new();
        for _ in 0..1000 {
            buffer.push("0123456789");
        }
        assert_eq!(buffer.len, 8192);
    }
}
