//! The first line of a journal: what is being built, from what and by whom.

use std::path::PathBuf;

use llm_quantize_plugin_api::{CalibrationText, INTERFACE_VERSION, Job, PlanRequest};
use serde::{Deserialize, Serialize};

use super::Place;
use super::fingerprint::{FileMark, differences, plan_hash};
use crate::error::Result;
use crate::job::staging::{Destination, file_name};
use crate::job::tensor_source::Origin;

/// Version of the journal's own format.
pub const FORMAT_VERSION: u32 = 1;

/// A plugin, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginId {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
}

/// Everything that the bytes of an output depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT_VERSION`] of the program that wrote it.
    pub journal: u32,
    program: String,
    interface: String,
    plugin: PluginId,
    reader: Option<PluginId>,
    format: String,
    level: String,
    group_size: Option<i64>,
    /// Sorted by key; the order of values of one key is the user's.
    options: Vec<(String, String)>,
    requantize: bool,
    /// The text that the model is run on.
    #[serde(default)]
    calibration: Option<CalibrationText>,
    /// Where the model lay. For people only: a model that moved is the same model.
    model: PathBuf,
    source: Vec<FileMark>,
    attachments: Vec<FileMark>,
    output: Output,
    /// SHA-256 of the plan.
    plan: String,
}

/// Where the staged files lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Output {
    /// The output folder; `None` if the journal lies in it, so that both can move.
    folder: Option<PathBuf>,
    names: Vec<String>,
}

/// What a header is made of.
pub struct Subject<'a> {
    /// Who writes the output.
    pub plugin: &'a PluginId,
    /// The planned job.
    pub job: &'a dyn Job,
    /// What was asked for.
    pub request: &'a PlanRequest,
    /// The model.
    pub origin: Origin<'a>,
    /// Where the output goes.
    pub destination: &'a Destination,
}

impl Header {
    /// The header of a run.
    ///
    /// # Errors
    /// If a file of the source cannot be looked at.
    pub fn new(subject: &Subject<'_>, place: &Place) -> Result<Self> {
        let request = subject.request;
        let mut options = request.options.clone();
        options.sort_by(|a, b| a.0.cmp(&b.0));
        let origin = &subject.origin;
        let weights = origin.weights.iter().map(|file| FileMark::by_time(file));
        let mut source: Vec<FileMark> = weights.collect::<Result<_>>()?;
        let small = origin.side_files.iter();
        source.extend(small.map(|file| FileMark::by_content(file, file.name())));
        let attachments = origin.attachments.iter();
        let destination = subject.destination;
        let folder = || std::path::absolute(&destination.folder).ok();
        Ok(Self {
            journal: FORMAT_VERSION,
            program: env!("CARGO_PKG_VERSION").into(),
            interface: INTERFACE_VERSION.to_string(),
            plugin: subject.plugin.clone(),
            reader: origin.reader.clone(),
            format: request.format.clone(),
            level: subject.job.plan().level.clone(),
            group_size: request.group_size,
            options,
            requantize: request.requantize,
            calibration: request.calibration.clone(),
            model: std::path::absolute(origin.path).unwrap_or_else(|_| origin.path.to_owned()),
            source,
            attachments: attachments
                .map(|(kind, file)| FileMark::by_content(file, kind))
                .collect(),
            output: Output {
                folder: match place.own_folder {
                    true => None,
                    false => destination.folder.canonicalize().ok().or_else(folder),
                },
                names: destination.targets.iter().map(|t| file_name(t)).collect(),
            },
            plan: plan_hash(subject.job)?,
        })
    }

    /// The output that it describes, for a journal whose run's output folder this is.
    pub fn destination(&self, folder: &std::path::Path) -> Destination {
        let folder = self.output.folder.as_deref().unwrap_or(folder);
        Destination {
            folder: folder.to_owned(),
            targets: self.output.names.iter().map(|n| folder.join(n)).collect(),
        }
    }

    /// What a run with the header `now` would do otherwise, for people.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut changed = |what: &str, was: &str, is: &str| {
            if was != is {
                found.push(format!("{what} was {was}, now it is {is}"));
            }
        };
        changed("llm-quantize", &self.program, &now.program);
        changed("the plugin interface", &self.interface, &now.interface);
        changed("the format", &self.format, &now.format);
        changed("the level", &self.level, &now.level);
        let command = |requantize| if requantize { "convert" } else { "quantize" };
        changed(
            "the command",
            command(self.requantize),
            command(now.requantize),
        );
        let size = |size: Option<i64>| size.map_or_else(|| "not given".into(), |n| n.to_string());
        changed(
            "the group size",
            &size(self.group_size),
            &size(now.group_size),
        );
        changed(
            "the calibration",
            &calibration(self.calibration.as_ref()),
            &calibration(now.calibration.as_ref()),
        );
        changed(
            "the output",
            &self.output.names.join(", "),
            &now.output.names.join(", "),
        );
        let folder = |output: &Output| match &output.folder {
            Some(folder) => folder.display().to_string(),
            None => "the one that holds the checkpoint".into(),
        };
        changed(
            "the output folder",
            &folder(&self.output),
            &folder(&now.output),
        );
        found.extend(plugin_difference(
            "plugin",
            Some(&self.plugin),
            Some(&now.plugin),
        ));
        let readers = (self.reader.as_ref(), now.reader.as_ref());
        found.extend(plugin_difference(
            "the reading plugin",
            readers.0,
            readers.1,
        ));
        found.extend(option_differences(&self.options, &now.options));
        found.extend(attachment_differences(&self.attachments, &now.attachments));
        found.extend(differences(&self.source, &now.source));
        // Everything else is in the plan too; alone it says that something changed
        // that has no name here.
        if found.is_empty() && self.plan != now.plan {
            found.push(format!(
                "plugin \"{}\" plans the output in another way",
                now.plugin.id
            ));
        }
        found
    }
}

/// The text of a calibration, for people; two that are not the same differ here.
fn calibration(text: Option<&CalibrationText>) -> String {
    match text {
        None => "none".into(),
        Some(text) => {
            let (samples, length) = (text.samples, text.length);
            let checksum = text.fingerprint.get(..8).unwrap_or(&text.fingerprint);
            let name = &text.dataset;
            format!("{samples} samples of {length} tokens of {name} ({checksum})")
        }
    }
}

fn plugin_difference(what: &str, was: Option<&PluginId>, is: Option<&PluginId>) -> Option<String> {
    let name = |plugin: Option<&PluginId>| match plugin {
        Some(plugin) => format!("\"{}\"", plugin.id),
        None => "none".into(),
    };
    match (was, is) {
        _ if was == is => None,
        (Some(was), Some(is)) if was.id == is.id => Some(format!(
            "{what} \"{}\" was {}, now it is {}",
            is.id, was.version, is.version
        )),
        _ => Some(format!("{what} was {}, now it is {}", name(was), name(is))),
    }
}

/// Options by key, each with all its values.
fn option_differences(was: &[(String, String)], is: &[(String, String)]) -> Vec<String> {
    let values = |options: &[(String, String)], key: &str| {
        let of_key = options.iter().filter(|(known, _)| known == key);
        let values: Vec<&str> = of_key.map(|(_, value)| value.as_str()).collect();
        match values.is_empty() {
            true => "not set".to_owned(),
            false => values.join(", "),
        }
    };
    let mut keys: Vec<&str> = was.iter().chain(is).map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
        .map(|key| (key, values(was, key), values(is, key)))
        .filter(|(_, was, is)| was != is)
        .map(|(key, was, is)| format!("option {key} was {was}, now it is {is}"))
        .collect()
}

fn attachment_differences(was: &[FileMark], is: &[FileMark]) -> Vec<String> {
    let has = |marks: &[FileMark], name: &str| marks.iter().any(|mark| mark.name == name);
    let lost = was.iter().filter(|mark| !has(is, &mark.name));
    let new = is.iter().filter(|mark| !has(was, &mark.name));
    let mut found: Vec<String> = lost
        .map(|mark| format!("an {} was given, now there is none", mark.name))
        .chain(new.map(|mark| format!("there was no {}, now one is given", mark.name)))
        .collect();
    for (was, is) in was.iter().zip(is) {
        if was.name == is.name && was != is {
            found.push(format!("the {} is another one", is.name));
        }
    }
    found
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A header of a made-up run.
    pub fn header() -> Header {
        Header {
            journal: FORMAT_VERSION,
            program: "0.1.0".into(),
            interface: "1.0".into(),
            plugin: plugin("gguf", "0.1.0"),
            reader: None,
            format: "gguf".into(),
            level: "Q4_K_M".into(),
            group_size: None,
            options: Vec::new(),
            requantize: false,
            calibration: None,
            model: "/models/m".into(),
            source: vec![mark("model.safetensors", 123)],
            attachments: Vec::new(),
            output: Output {
                folder: None,
                names: vec!["m.gguf".into()],
            },
            plan: "abc".into(),
        }
    }

    fn plugin(id: &str, version: &str) -> PluginId {
        PluginId {
            id: id.into(),
            version: version.into(),
        }
    }

    fn mark(name: &str, size: u64) -> FileMark {
        FileMark {
            name: name.into(),
            size,
            modified: Some(1),
            hash: "00".into(),
        }
    }

    #[test]
    fn every_difference_is_said_in_words() {
        type Change = fn(&mut Header);
        let cases: [(Change, &str); 16] = [
            (
                |h| h.program = "0.2.0".into(),
                "llm-quantize was 0.1.0, now it is 0.2.0",
            ),
            (
                |h| h.interface = "2.0".into(),
                "the plugin interface was 1.0",
            ),
            (
                |h| h.plugin.version = "0.2.0".into(),
                "plugin \"gguf\" was 0.1.0, now it is 0.2.0",
            ),
            (
                |h| h.plugin.id = "awq".into(),
                "plugin was \"gguf\", now it is \"awq\"",
            ),
            (
                |h| h.reader = Some(plugin("x", "1")),
                "reading plugin was none, now it is \"x\"",
            ),
            (|h| h.format = "awq".into(), "the format was gguf"),
            (
                |h| h.level = "Q5_K_M".into(),
                "the level was Q4_K_M, now it is Q5_K_M",
            ),
            (
                |h| h.group_size = Some(32),
                "the group size was not given, now it is 32",
            ),
            (
                |h| h.options = vec![("pure".into(), "true".into())],
                "option pure was not set, now it is true",
            ),
            (
                |h| h.requantize = true,
                "the command was quantize, now it is convert",
            ),
            (
                |h| {
                    h.calibration = Some(CalibrationText {
                        dataset: "t.txt".into(),
                        samples: 8,
                        length: 64,
                        fingerprint: "0123456789".into(),
                    });
                },
                "the calibration was none, now it is 8 samples of 64 tokens of t.txt (01234567)",
            ),
            (|h| h.output.folder = Some("/b".into()), "now it is /b"),
            (
                |h| h.attachments = vec![mark("imatrix", 5)],
                "there was no imatrix",
            ),
            (
                |h| h.source[0].size = 456,
                "model.safetensors changed: it had 123 bytes, now 456",
            ),
            (
                |h| h.source[0].modified = Some(2),
                "model.safetensors was modified",
            ),
            (
                |h| h.plan = "other".into(),
                "plans the output in another way",
            ),
        ];
        for (change, words) in cases {
            let mut now = header();
            change(&mut now);
            let found = header().differences(&now);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(words), "{found:?}: {words}");
        }
        let mut moved = header();
        moved.model = "/elsewhere/m".into();
        assert!(header().differences(&moved).is_empty());
    }

    #[test]
    fn another_importance_matrix_is_noticed() {
        let (mut was, mut now) = (header(), header());
        was.attachments = vec![mark("imatrix", 5)];
        now.attachments = vec![mark("imatrix", 6)];
        assert_eq!(was.differences(&now), ["the imatrix is another one"]);
        now.attachments.clear();
        assert_eq!(
            was.differences(&now),
            ["an imatrix was given, now there is none"]
        );
    }

    #[test]
    fn it_survives_the_journal() {
        let text = serde_json::to_string(&header()).unwrap();
        assert!(!text.contains('\n'));
        let back: Header = serde_json::from_str(&text).unwrap();
        assert_eq!(back, header());
    }
}
