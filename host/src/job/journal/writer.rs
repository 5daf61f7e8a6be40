//! Writes the journal while the engine works.
//!
//! One thread commits finished pieces in groups: first the staged files are synced,
//! then the records are appended, then the journal is synced. A power cut between any
//! two of these steps leaves a journal that promises no more than the files hold.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::record::{Line, Record};
use super::storage::Storage;
use crate::error::{Error, Result};

/// Finished pieces wait no longer than this for the end of their layer.
const MAX_AGE: Duration = Duration::from_secs(2);
/// Nor until there is more of the output than this.
const MAX_BYTES: u64 = 64 << 20;
/// The most messages that are gathered before anything is written.
const MAX_GROUP: usize = 1024;

/// A piece that was encoded.
#[derive(Debug)]
pub struct Finished {
    /// What the journal will say.
    pub record: Record,
    /// The staged files that it lies in.
    pub files: Vec<usize>,
    /// Its bytes in the output.
    pub bytes: u64,
    /// It was the last of its layer.
    pub ends_layer: bool,
}

/// Tells when what was finished before is in the durable journal.
///
/// The mutex is there because threads see whoever holds it: nobody ever waits for it.
#[derive(Debug)]
pub struct Durable(Mutex<Receiver<()>>);

impl Durable {
    /// Whoever makes it durable tells so with the sender.
    pub fn channel() -> (Sender<()>, Self) {
        let (sender, receiver) = channel();
        (sender, Self(Mutex::new(receiver)))
    }

    /// Waits for it. `false` if it will not be, because the journal is no longer written.
    #[must_use]
    pub fn wait(self) -> bool {
        let receiver = self.0.into_inner();
        let receiver = receiver.unwrap_or_else(PoisonError::into_inner);
        receiver.recv().is_ok()
    }
}

enum Message {
    Finished(Finished),
    Flush(Sender<()>),
    Publishing,
}

/// What the writer's thread tells.
#[derive(Default)]
struct Shared {
    /// Pieces in the durable journal.
    recorded: AtomicUsize,
    /// Why the journal is no longer written, until someone was told.
    trouble: Mutex<Option<String>>,
}

/// A journal that is being written.
pub struct Journal {
    sender: Sender<Message>,
    thread: JoinHandle<Result<()>>,
    shared: Arc<Shared>,
}

impl Journal {
    /// Starts the thread; `recorded` pieces are in the journal already.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(storage: impl Storage, recorded: usize) -> Result<Self> {
        let (sender, receiver) = channel();
        let shared = Arc::new(Shared {
            recorded: AtomicUsize::new(recorded),
            ..Shared::default()
        });
        let writer = Writer {
            storage,
            shared: Arc::clone(&shared),
            off: false,
            batch: Batch::default(),
        };
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run(&receiver))
            .map_err(|error| Error::other(format!("cannot start a thread: {error}")))?;
        Ok(Self {
            sender,
            thread,
            shared,
        })
    }

    /// Takes note of a finished piece. `false` if the files cannot be made durable:
    /// then the work is in vain, and [`finish`](Self::finish) has the reason.
    #[must_use]
    pub fn finished(&self, piece: Finished) -> bool {
        self.sender.send(Message::Finished(piece)).is_ok()
    }

    /// Commits what is finished, in the background.
    pub fn flush(&self) -> Durable {
        let (sender, durable) = Durable::channel();
        // If the thread has ended, finish() has the reason.
        drop(self.sender.send(Message::Flush(sender)));
        durable
    }

    /// Notes that the output is about to get its name.
    pub fn publishing(&self) {
        drop(self.sender.send(Message::Publishing));
    }

    /// Why the journal is no longer written, told once. The job can go on without.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.shared.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Commits the rest and ends the thread. Returns the number of pieces in the
    /// journal, and whether all was well.
    pub fn finish(self) -> (usize, Result<()>) {
        drop(self.sender);
        let ended = self.thread.join();
        let result = ended.unwrap_or_else(|_| Err(Error::other("the journal's thread failed")));
        (self.shared.recorded.load(Ordering::Relaxed), result)
    }
}

/// What is committed together.
#[derive(Default)]
struct Batch {
    pieces: usize,
    text: String,
    files: BTreeSet<usize>,
    bytes: u64,
    since: Option<Instant>,
    /// Who waits for it.
    waiting: Vec<Sender<()>>,
}

struct Writer<S> {
    storage: S,
    shared: Arc<Shared>,
    /// The journal could not be written; it keeps what it has.
    off: bool,
    batch: Batch,
}

impl<S: Storage> Writer<S> {
    fn run(mut self, receiver: &Receiver<Message>) -> Result<()> {
        loop {
            let (mut due, mut ended) = (false, false);
            match self.wait(receiver) {
                Ok(message) => due |= self.take(message),
                Err(RecvTimeoutError::Timeout) => due = true,
                Err(RecvTimeoutError::Disconnected) => ended = true,
            }
            // What came during the last commit goes into one.
            for message in receiver.try_iter().take(MAX_GROUP) {
                due |= self.take(message);
            }
            if due || ended {
                self.commit()?;
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn wait(&self, receiver: &Receiver<Message>) -> Result<Message, RecvTimeoutError> {
        match self.batch.since {
            Some(since) => receiver.recv_timeout(MAX_AGE.saturating_sub(since.elapsed())),
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Adds to the batch; whether it is time to commit.
    fn take(&mut self, message: Message) -> bool {
        let batch = &mut self.batch;
        batch.since.get_or_insert_with(Instant::now);
        match message {
            Message::Flush(waiting) => {
                batch.waiting.push(waiting);
                true
            }
            Message::Publishing => {
                batch.text.push_str(&Line::Publishing.text());
                true
            }
            Message::Finished(piece) => {
                batch.pieces += 1;
                batch.files.extend(piece.files);
                batch.bytes = batch.bytes.saturating_add(piece.bytes);
                batch.text.push_str(&Line::Piece(piece.record).text());
                piece.ends_layer || batch.bytes >= MAX_BYTES
            }
        }
    }

    fn commit(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        if !self.off && !batch.text.is_empty() {
            self.write(&batch)?;
        }
        if !self.off {
            for waiting in batch.waiting {
                // It may not wait any more.
                let _ = waiting.send(());
            }
        }
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        self.storage.sync_files(&batch.files)?;
        let written = self
            .storage
            .append(batch.text.as_bytes())
            .and_then(|()| self.storage.sync_journal());
        match written {
            Ok(()) => {
                let recorded = &self.shared.recorded;
                recorded.fetch_add(batch.pieces, Ordering::Relaxed);
            }
            Err(error) => {
                self.off = true;
                let trouble = self.shared.trouble.lock();
                *trouble.unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::pieces::Piece;
    use std::io;

    /// Notes the operations; fails where it is told to.
    #[derive(Clone, Default)]
    struct Notes {
        operations: Arc<Mutex<Vec<String>>>,
        full: bool,
        broken: bool,
    }

    impl Notes {
        fn note(&self, operation: String) {
            self.operations.lock().unwrap().push(operation);
        }

        fn taken(&self) -> Vec<String> {
            self.operations.lock().unwrap().clone()
        }
    }

    impl Storage for Notes {
        fn sync_files(&mut self, files: &BTreeSet<usize>) -> Result<()> {
            self.note(format!("files {files:?}"));
            match self.broken {
                true => Err(Error::other("input/output error")),
                false => Ok(()),
            }
        }

        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            if self.full {
                self.note("full".into());
                return Err(io::ErrorKind::StorageFull.into());
            }
            let (lines, valid) = super::super::record::parse(bytes);
            assert_eq!(valid, bytes.len(), "whole lines only");
            for line in lines {
                self.note(match line {
                    Line::Piece(record) => format!("piece {}", record.unit),
                    Line::Publishing => "publishing".into(),
                });
            }
            Ok(())
        }

        fn sync_journal(&mut self) -> io::Result<()> {
            self.note("journal".into());
            Ok(())
        }
    }

    fn piece(unit: usize, file: usize, ends_layer: bool) -> Finished {
        Finished {
            record: Record::new(&Piece { unit, rows: 0..1 }, 7, &[]),
            files: vec![file],
            bytes: 10,
            ends_layer,
        }
    }

    #[test]
    fn data_is_durable_before_it_is_recorded() {
        let notes = Notes::default();
        let journal = Journal::start(notes.clone(), 5).unwrap();
        assert!(journal.finished(piece(0, 2, false)));
        assert!(journal.finished(piece(1, 0, false)));
        journal.publishing();
        let (recorded, result) = journal.finish();
        result.unwrap();
        assert_eq!(recorded, 7);
        let all = notes.taken();
        // However the messages were grouped: each record between a sync of its file
        // and a sync of the journal.
        for (record, file) in [("piece 0", 2), ("piece 1", 0)] {
            let at = all.iter().position(|o| o == record).unwrap();
            let before = all[..at].iter().rfind(|o| o.starts_with("files")).unwrap();
            assert!(before.contains(&file.to_string()), "{all:?}");
            assert!(all[at..].contains(&"journal".to_owned()), "{all:?}");
        }
        assert_eq!(all[all.len() - 2..], ["publishing", "journal"]);
    }

    #[test]
    fn who_waits_is_told_when_it_is_durable_or_never_will_be() {
        let notes = Notes::default();
        let journal = Journal::start(notes.clone(), 0).unwrap();
        assert!(journal.finished(piece(0, 1, false)));
        assert!(journal.flush().wait());
        assert_eq!(notes.taken(), ["files {1}", "piece 0", "journal"]);
        assert!(journal.flush().wait(), "there is nothing more to write");
        journal.finish().1.unwrap();
        let ends: [fn(&mut Notes); 2] = [|notes| notes.full = true, |notes| notes.broken = true];
        for end in ends {
            let mut notes = Notes::default();
            end(&mut notes);
            let journal = Journal::start(notes, 0).unwrap();
            let _ = journal.finished(piece(0, 1, false));
            assert!(!journal.flush().wait());
            assert!(!journal.flush().wait());
            drop(journal.finish());
        }
    }

    #[test]
    fn a_group_is_one_commit() {
        let notes = Notes::default();
        let mut writer = Writer {
            storage: notes.clone(),
            shared: Arc::default(),
            off: false,
            batch: Batch::default(),
        };
        assert!(!writer.take(Message::Finished(piece(0, 1, false))));
        assert!(!writer.take(Message::Finished(piece(1, 1, false))));
        assert!(writer.take(Message::Finished(piece(2, 3, true))));
        writer.commit().unwrap();
        writer.commit().unwrap();
        assert_eq!(
            notes.taken(),
            ["files {1, 3}", "piece 0", "piece 1", "piece 2", "journal"]
        );
        let mut large = piece(3, 0, false);
        large.bytes = MAX_BYTES;
        assert!(writer.take(Message::Finished(large)));
    }

    #[test]
    fn pieces_without_a_layer_do_not_wait_for_ever() {
        let notes = Notes::default();
        let journal = Journal::start(notes.clone(), 0).unwrap();
        assert!(journal.finished(piece(0, 0, false)));
        let start = Instant::now();
        while notes.taken().len() < 3 {
            assert!(start.elapsed() < MAX_AGE * 10);
            std::thread::sleep(Duration::from_millis(20));
        }
        journal.finish().1.unwrap();
    }

    #[test]
    fn a_full_disk_ends_the_journal_but_not_the_job() {
        let notes = Notes {
            full: true,
            ..Notes::default()
        };
        let journal = Journal::start(notes.clone(), 3).unwrap();
        assert!(journal.finished(piece(0, 0, true)));
        let start = Instant::now();
        let trouble = loop {
            assert!(start.elapsed() < Duration::from_secs(20));
            if let Some(trouble) = journal.trouble() {
                break trouble;
            }
        };
        assert!(!trouble.is_empty());
        assert!(journal.finished(piece(1, 0, true)));
        assert_eq!(journal.trouble(), None);
        let (recorded, result) = journal.finish();
        result.unwrap();
        assert_eq!(recorded, 3);
        assert_eq!(notes.taken(), ["files {0}", "full"]);
    }

    #[test]
    fn data_that_cannot_be_made_durable_is_never_recorded() {
        let notes = Notes {
            broken: true,
            ..Notes::default()
        };
        let journal = Journal::start(notes.clone(), 0).unwrap();
        let start = Instant::now();
        while journal.finished(piece(0, 0, true)) {
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
        let (recorded, result) = journal.finish();
        assert_eq!(recorded, 0);
        assert!(result.is_err());
        assert!(notes.taken().iter().all(|o| o.starts_with("files")));
    }
}
