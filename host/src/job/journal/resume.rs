//! Takes over what an earlier run finished.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use llm_quantize_plugin_api::{Measure, Plan};
use serde_json::Value;

use super::header::FORMAT_VERSION;
use super::record::{Line, Record, parse};
use super::{Header, Place, is_absent, refused};
use crate::error::Result;
use crate::job::output_map::OutputMap;
use crate::job::pieces::Piece;
use crate::job::staging::{Destination, span_range};
use crate::job::sweep::Sweep;
use crate::job::threads::{CancelFlag, Threads};

/// The journal of the largest models has some tens of megabytes.
const MAX_BYTES: u64 = 1 << 30;

/// A journal that an earlier run left.
#[derive(Debug)]
pub struct Found {
    /// What that run was building.
    pub header: Header,
    /// What it finished.
    pub records: Vec<Record>,
    /// It was about to rename the files.
    pub publishing: bool,
    /// Bytes of the journal that count.
    pub valid: u64,
}

/// Reads a journal; `None` if there is none.
///
/// # Errors
/// If it has no readable header.
pub fn read(place: &Place) -> Result<Option<Found>> {
    let path = &place.path;
    let bytes = match read_limited(path) {
        Ok(bytes) => bytes,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(refused(path, &format!("cannot be read: {error}"))),
    };
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let damaged = || refused(path, "is damaged: it does not begin with a header");
    let header = &bytes[..end.ok_or_else(damaged)?];
    let value: Value = serde_json::from_slice(header).map_err(|_| damaged())?;
    match value.get("journal").and_then(Value::as_u64) {
        Some(version) if version == u64::from(FORMAT_VERSION) => {}
        Some(version) => {
            return Err(refused(
                path,
                &format!("has the format {version}; this program writes {FORMAT_VERSION}"),
            ));
        }
        None => return Err(damaged()),
    }
    let parsed = serde_json::from_value(value).map_err(|_| damaged())?;
    let after = header.len() + 1;
    let (lines, valid) = parse(&bytes[after..]);
    let publishing = lines.contains(&Line::Publishing);
    let records = lines.into_iter().filter_map(|line| match line {
        Line::Piece(record) => Some(record),
        Line::Publishing => None,
    });
    Ok(Some(Found {
        header: parsed,
        records: records.collect(),
        publishing,
        valid: (after + valid) as u64,
    }))
}

fn read_limited(path: &Path) -> std::io::Result<Vec<u8>> {
    let found = fs::metadata(path)?;
    if !found.is_file() || found.len() > MAX_BYTES {
        return Err(std::io::Error::other("it is no journal"));
    }
    fs::read(path)
}

impl Found {
    /// Whether files of that run still lie there.
    pub fn has_files(&self, folder: &Path) -> bool {
        let temporary = self.header.destination(folder).temporary();
        temporary.iter().any(|path| path.exists())
    }

    /// Refuses to continue what another run would write.
    ///
    /// # Errors
    /// With everything that differs.
    pub fn check(&self, now: &Header, place: &Place, destination: &Destination) -> Result<()> {
        let differences = self.header.differences(now);
        if !differences.is_empty() {
            let what = differences.join("; ");
            return Err(refused(
                &place.path,
                &format!("does not fit this run: {what}"),
            ));
        }
        match self.has_files(&destination.folder) {
            true => Ok(()),
            false => Err(refused(
                &place.path,
                "is of no use: the unfinished files that it is about are gone",
            )),
        }
    }
}

/// The pieces of a plan that are done.
#[derive(Debug, Default)]
pub struct Taken {
    /// For each piece what the plugin measured, if it is done.
    pub done: Vec<Option<Vec<Measure>>>,
    /// Recorded pieces whose bytes are not there.
    pub lost: usize,
}

/// Checks every recorded piece against the bytes in the staged files.
///
/// # Errors
/// If the user interrupts.
pub fn take_over(
    records: &[Record],
    plan: &Plan,
    pieces: &[Piece],
    maps: &[OutputMap],
    threads: &Threads,
    cancel: &CancelFlag,
) -> Result<Taken> {
    // The last record of a piece counts: a piece that was lost before was redone.
    let by_place: BTreeMap<usize, &Record> = records
        .iter()
        .filter_map(|record| Some((find(pieces, record)?, record)))
        .collect();
    let tasks: Vec<(usize, &Record)> = by_place.into_iter().collect();
    let results: Vec<OnceLock<bool>> = tasks.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let sweep = Sweep::new(threads.count());
    threads.on_each(|| {
        while !cancel.is_set() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((place, record)) = tasks.get(index) else {
                break;
            };
            let there = parts(plan, &pieces[*place], maps).is_some_and(|parts| {
                let touched = parts.iter().map(|part| part.len() as u64).sum();
                let same = checksum(parts) == record.crc;
                if sweep.is_due(touched) {
                    maps.iter().for_each(OutputMap::release);
                }
                same
            });
            results[index].get_or_init(|| there);
        }
    });
    cancel.check()?;
    let mut taken = Taken {
        done: pieces.iter().map(|_| None).collect(),
        lost: 0,
    };
    for ((place, record), result) in tasks.into_iter().zip(&results) {
        match result.get() {
            Some(true) => taken.done[place] = Some(record.measures()),
            _ => taken.lost += 1,
        }
    }
    Ok(taken)
}

/// Place of a record's piece; pieces are sorted by unit and row.
fn find(pieces: &[Piece], record: &Record) -> Option<usize> {
    let key = (record.unit, record.rows.start);
    let place = pieces.binary_search_by_key(&key, |piece| (piece.unit, piece.rows.start));
    place.ok().filter(|place| pieces[*place] == record.piece())
}

/// The bytes of a piece in the mapped files.
fn parts<'m>(plan: &Plan, piece: &Piece, maps: &'m [OutputMap]) -> Option<Vec<&'m [u8]>> {
    let spans = piece.spans(&plan.units[piece.unit]);
    spans
        .map(|span| maps.get(span.file)?.bytes().get(span_range(&span).ok()?))
        .collect()
}

/// CRC-32 of a piece's bytes, part after part.
pub fn checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.into_iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::super::header::tests::header;
    use super::*;
    use crate::error::ExitCode;
    use llm_quantize_plugin_api::{RowSplit, Span, Unit};

    fn place(folder: &Path) -> Place {
        Place {
            path: folder.join("m.journal"),
            own_folder: false,
            named: false,
        }
    }

    fn record(unit: usize, start: u64, bytes: &[u8]) -> Record {
        let measure = Measure::new("e", 0.5);
        let rows = start..start + 2;
        Record::new(&Piece { unit, rows }, checksum([bytes]), &[measure])
    }

    #[test]
    fn a_journal_is_read_up_to_what_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        assert!(read(&place).unwrap().is_none());
        let first = serde_json::to_string(&header()).unwrap();
        let line = Line::Piece(record(0, 0, b"x")).text();
        let whole = format!("{first}\n{line}");
        fs::write(&place.path, format!("{whole}{}", &line[..20])).unwrap();
        let found = read(&place).unwrap().unwrap();
        assert_eq!((found.records.len(), found.publishing), (1, false));
        assert_eq!(found.valid, whole.len() as u64);
        assert_eq!(found.header, header());
        fs::write(&place.path, format!("{whole}{}", Line::Publishing.text())).unwrap();
        assert!(read(&place).unwrap().unwrap().publishing);
    }

    #[test]
    fn a_journal_without_a_header_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let newer = serde_json::to_string(&header())
            .unwrap()
            .replace("\"journal\":1", "\"journal\":99");
        for (text, words) in [
            ("", "damaged"),
            ("{}\n", "damaged"),
            ("\0\0\0\0", "damaged"),
            ("{\"journal\":1}\n", "damaged"),
            (&format!("{newer}\n"), "has the format 99"),
        ] {
            fs::write(&place.path, text).unwrap();
            let error = read(&place).unwrap_err();
            assert_eq!(error.class, ExitCode::Checkpoint);
            assert!(error.message.contains(words), "{error}");
            assert!(error.message.contains("m.journal"), "{error}");
        }
        fs::remove_file(&place.path).unwrap();
        fs::create_dir(&place.path).unwrap();
        assert_eq!(read(&place).unwrap_err().class, ExitCode::Checkpoint);
    }

    /// Two units of four rows with two bytes each, over two files.
    fn plan() -> Plan {
        let unit = |file| Unit {
            outputs: vec![Span {
                file,
                offset: 1,
                len: 8,
            }],
            split: Some(RowSplit { rows: 4, step: 1 }),
            ..Unit::default()
        };
        Plan {
            units: vec![unit(0), unit(1)],
            ..Plan::default()
        }
    }

    #[test]
    fn what_is_not_there_is_lost_and_the_rest_taken_over() {
        let plan = plan();
        let piece = |unit, start| Piece {
            unit,
            rows: start..start + 2,
        };
        let pieces = [piece(0, 0), piece(0, 2), piece(1, 0), piece(1, 2)];
        let mut maps: Vec<OutputMap> = (0..2)
            .map(|_| {
                let file = tempfile::tempfile().unwrap();
                file.set_len(9).unwrap();
                OutputMap::new(&file, Path::new("x"), 9).unwrap()
            })
            .collect();
        maps[0].bytes_mut()[1..5].copy_from_slice(b"good");
        maps[1].bytes_mut()[1..9].copy_from_slice(b"badxlast");
        let records = [
            record(0, 0, b"good"),
            record(1, 0, b"baad"),
            record(1, 2, b"old "),
            record(1, 2, b"last"),
            // Not pieces of this plan.
            record(0, 1, b"good"),
            record(9, 0, b"good"),
        ];
        let threads = Threads::new(2).unwrap();
        let cancel = CancelFlag::default();
        let taken = take_over(&records, &plan, &pieces, &maps, &threads, &cancel).unwrap();
        let done: Vec<bool> = taken.done.iter().map(Option::is_some).collect();
        assert_eq!(done, [true, false, false, true]);
        assert_eq!(taken.lost, 1);
        assert_eq!(taken.done[0].as_ref().unwrap()[0].value, 0.5);
        cancel.shared().store(true, Ordering::Relaxed);
        let error = take_over(&records, &plan, &pieces, &maps, &threads, &cancel).unwrap_err();
        assert_eq!(error.class, ExitCode::Interrupted);
    }
}
