//! Starts a probing process, listens to it, and ends it if it takes too long.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::message::Message;
use super::{COMMAND, Depth};

/// No process says more.
const MAX_MESSAGES: u64 = 4 << 20;
/// Of what a library prints, so much of the end is kept.
const MAX_OUTPUT: usize = 4 << 10;
/// How often a silent process is looked at.
const TICK: Duration = Duration::from_millis(20);
/// How long what an ended process said may be under way.
const GRACE: Duration = Duration::from_millis(200);

/// How long a process may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until the library has been probed.
    pub probe: Duration,
    /// From then on, for the checks.
    pub checks: Duration,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal.
    Signal(i32),
    /// It had to be ended.
    TimedOut,
}

/// All that came from a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// What it said.
    pub messages: Vec<Message>,
    /// How it ended.
    pub end: End,
    /// The end of what the library printed.
    pub output: String,
}

/// Runs a probing process to its end.
///
/// # Errors
/// If it cannot be started.
pub fn run(depth: Depth, library: &Path, limits: Limits) -> io::Result<Transcript> {
    let program = std::env::current_exe()?;
    let mut child = Command::new(program)
        .args([COMMAND, depth.word()])
        .arg(library)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let messages = listen(child.stdout.take());
    let (output, output_ended) = collect(child.stderr.take());
    let (messages, end) = follow(&mut child, &messages, limits)?;
    // Something that the library started may hold the pipe open for ever.
    let _ = output_ended.recv_timeout(GRACE);
    let bytes = output.lock().unwrap_or_else(PoisonError::into_inner);
    let output = String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok(Transcript {
        messages,
        end,
        output,
    })
}

/// Reads messages on a thread of its own; the receiver ends when the process closes its
/// end, or says what is no message.
fn listen(pipe: Option<impl Read + Send + 'static>) -> Receiver<Message> {
    let (sender, receiver) = channel();
    if let Some(pipe) = pipe {
        thread::spawn(move || {
            let lines = BufReader::new(pipe.take(MAX_MESSAGES)).lines();
            for line in lines.map_while(Result::ok) {
                let Ok(message) = serde_json::from_str(&line) else {
                    return;
                };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

/// Reads what is printed on a thread of its own and keeps the end of it. The receiver
/// ends when nothing more can come.
fn collect(pipe: Option<impl Read + Send + 'static>) -> (Arc<Mutex<Vec<u8>>>, Receiver<()>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (sender, receiver): (Sender<()>, _) = channel();
    if let Some(mut pipe) = pipe {
        let kept = Arc::clone(&kept);
        thread::spawn(move || {
            let _ended = sender;
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..count]);
                let excess = kept.len().saturating_sub(MAX_OUTPUT);
                kept.drain(..excess);
            }
        });
    }
    (kept, receiver)
}

/// Listens until the process has ended, by itself or because its time is over.
fn follow(
    child: &mut Child,
    incoming: &Receiver<Message>,
    limits: Limits,
) -> io::Result<(Vec<Message>, End)> {
    let mut messages = Vec::new();
    let mut deadline = Instant::now() + limits.probe;
    let mut open = true;
    let status = loop {
        let tick = TICK.min(deadline.saturating_duration_since(Instant::now()));
        match incoming.recv_timeout(tick) {
            Ok(message) => {
                if matches!(message, Message::Probed(_)) {
                    deadline = Instant::now() + limits.checks;
                }
                messages.push(message);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The process ends, or is silent from now on.
            Err(RecvTimeoutError::Disconnected) if open => open = false,
            Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(1)),
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok((messages, End::TimedOut));
        }
    };
    while let Ok(message) = incoming.recv_timeout(GRACE) {
        messages.push(message);
    }
    Ok((messages, end_of(status)))
}

fn end_of(status: ExitStatus) -> End {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return End::Signal(signal);
    }
    End::Exited(status.code().unwrap_or(-1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, probe: Duration) -> (Vec<Message>, End, String) {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let incoming = listen(child.stdout.take());
        let (output, ended) = collect(child.stderr.take());
        let limits = Limits {
            probe,
            checks: probe,
        };
        let (messages, end) = follow(&mut child, &incoming, limits).unwrap();
        let _ = ended.recv_timeout(GRACE);
        let output = String::from_utf8_lossy(&output.lock().unwrap()).into_owned();
        (messages, end, output)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn messages_output_and_codes_arrive() {
        let script = r#"echo '{"message":"started"}'; echo printed >&2; exit 3"#;
        let (messages, end, output) = shell(script, LONG);
        assert_eq!(messages, [Message::Started]);
        assert_eq!(end, End::Exited(3));
        assert_eq!(output, "printed\n");
    }

    #[test]
    fn signals_are_told_from_codes() {
        assert_eq!(shell("kill -SEGV $$", LONG).1, End::Signal(11));
    }

    #[test]
    fn what_takes_too_long_is_ended() {
        let start = Instant::now();
        let (_, end, _) = shell("exec sleep 60", Duration::from_millis(100));
        assert_eq!(end, End::TimedOut);
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_grandchild_that_holds_the_pipes_is_not_waited_for() {
        let start = Instant::now();
        let (messages, end, _) = shell(r#"echo '{"message":"started"}'; sleep 20 & exit 0"#, LONG);
        assert_eq!((messages.len(), end), (1, End::Exited(0)));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn of_endless_output_the_end_is_kept() {
        let script = "i=0; while [ $i -lt 2000 ]; do echo line $i >&2; i=$((i+1)); done";
        let (_, end, output) = shell(script, LONG);
        assert_eq!(end, End::Exited(0));
        assert!(output.len() <= MAX_OUTPUT && output.ends_with("line 1999\n"));
    }
}
