//! Jobs whose units ask for statistics, with a calibrator that notes what it is asked.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use llm_quantize_plugin_api as plugin_api;
use plugin_api::{
    CalibrationPlan, EncodeCall, EncodeReport, FileView, Flow, FormatDescription, Grain, Inputs,
    Job, ModelView, Plan, PlanRequest, Quantizer, Statistic, StatisticRequest, StatisticView,
};
use tempfile::TempDir;

use super::journal::{Checkpoints, PluginId};
use super::*;
use crate::convert::hf::HuggingFace;
use crate::error::{Error, ExitCode, Result};
use crate::source::{SourceModel, fixtures};

/// Writes plain files; the units of layers ask for a statistic and note what they get.
struct Asking {
    seen: std::sync::Arc<Mutex<Vec<(String, f32)>>>,
}

struct AskingJob {
    plan: Plan,
    inner: Box<dyn Job>,
    seen: std::sync::Arc<Mutex<Vec<(String, f32)>>>,
}

impl Quantizer for Asking {
    fn formats(&self) -> Vec<FormatDescription> {
        HuggingFace.formats()
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> plugin_api::Result<Box<dyn Job>> {
        let inner = HuggingFace.plan(inputs, request)?;
        let mut plan = inner.plan().clone();
        for unit in plan.units.iter_mut().filter(|unit| unit.layer.is_some()) {
            unit.statistics = vec![StatisticRequest {
                site: unit.label.clone(),
                statistic: Statistic::SquareSum,
            }];
        }
        plan.calibration = Some(CalibrationPlan {
            grain: Grain::Block,
            flow: Flow::Original,
        });
        let seen = std::sync::Arc::clone(&self.seen);
        Ok(Box::new(AskingJob { plan, inner, seen }))
    }
}

impl Job for AskingJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn blob(&self, index: usize) -> &[u8] {
        self.inner.blob(index)
    }

    fn encode(&self, call: EncodeCall<'_>) -> plugin_api::Result<EncodeReport> {
        let label = self.plan.units[call.unit].label.clone();
        let value = call.statistics.first().map_or(-1.0, |view| view.data[0]);
        self.seen.lock().unwrap().push((label, value));
        self.inner.encode(call)
    }

    fn verify(&self, files: &[FileView<'_>]) -> plugin_api::Result<()> {
        self.inner.verify(files)
    }
}

/// Knows the waves by the layers' numbers; the statistic of a wave is its number.
#[derive(Default)]
struct Notes {
    asked: Mutex<Vec<String>>,
    fail_at: Option<usize>,
}

struct Waves<'a> {
    notes: &'a Notes,
    value: [f32; 1],
}

impl Notes {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

impl Calibrator for Notes {
    fn check(&self, _: &Plan) -> Result<()> {
        Ok(())
    }

    fn wave(&self, _: &Plan, site: &str) -> Option<usize> {
        site.split('.').find_map(|part| part.parse().ok())
    }

    fn memory_needed(&self, _: &Plan) -> u64 {
        1 << 20
    }

    fn start<'a>(
        &'a self,
        _: &Plan,
        waves: &[usize],
        folder: Option<&Path>,
        _: &'a Context<'a>,
    ) -> Result<Box<dyn Statistics + 'a>> {
        let kept = folder.is_some();
        self.note(format!("start {waves:?} {kept}"));
        Ok(Box::new(Waves {
            notes: self,
            value: [-1.0],
        }))
    }
}

impl Statistics for Waves<'_> {
    fn work(&self) -> Option<Work> {
        Some(Work {
            unit: WorkUnit::Tokens,
            amount: 2,
            ..Work::default()
        })
    }

    fn gather(&mut self, wave: usize, _: &dyn Decoder) -> Result<()> {
        self.notes.note(format!("gather {wave}"));
        if self.notes.fail_at == Some(wave) {
            return Err(Error::interrupted());
        }
        self.value = [wave as f32];
        Ok(())
    }

    fn view(&self, _: &StatisticRequest) -> Result<StatisticView<'_>> {
        Ok(StatisticView {
            rows: 1,
            cols: 1,
            data: &self.value,
        })
    }

    fn finished(&mut self, wave: usize, _: Option<Durable>) -> Result<()> {
        self.notes.note(format!("finished {wave}"));
        Ok(())
    }
}

struct Silent;

impl JobProgress for Silent {
    fn begin(&self, _: Work) {}
    fn bytes(&self, _: u64) {}
    fn layer(&self, _: usize, _: usize) {}
    fn end(&self) {}
    fn note(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}

struct Bench {
    model: TempDir,
    out: TempDir,
}

impl Bench {
    fn new() -> Self {
        let model = tempfile::tempdir().unwrap();
        fixtures::write_llama(model.path());
        Self {
            model,
            out: tempfile::tempdir().unwrap(),
        }
    }

    /// What the units saw, by label.
    fn run(&self, calibrator: Option<&Notes>) -> Result<Vec<(String, f32)>> {
        let path = self.model.path().to_string_lossy();
        let source = SourceModel::open(&path, &[], ModelView::HuggingFace)?;
        let (threads, cancel) = (Threads::new(2)?, CancelFlag::default());
        let context = Context {
            threads: &threads,
            cancel: &cancel,
            progress: &Silent,
            max_memory: 1 << 30,
        };
        let request = PlanRequest {
            format: "hf".into(),
            level: "F32".into(),
            ..PlanRequest::default()
        };
        let plugin = PluginId {
            id: "asking".into(),
            version: "1.0.0".into(),
        };
        let seen = std::sync::Arc::default();
        let quantizer = Asking {
            seen: std::sync::Arc::clone(&seen),
        };
        let calibrator = calibrator.map(|notes| notes as &dyn Calibrator);
        let folder = self.out.path();
        prepare(
            &plugin, &quantizer, &source, calibrator, &request, folder, &context,
        )?
        .check(false, &Checkpoints::default(), &context)?
        .run(&context, || {})?;
        let mut seen = std::mem::take(&mut *seen.lock().unwrap());
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(seen)
    }

    fn calibration_folder(&self) -> PathBuf {
        self.out.path().join(".checkpoint")
    }
}

#[test]
fn units_get_the_statistics_of_their_wave() {
    let notes = Notes::default();
    let seen = Bench::new().run(Some(&notes)).unwrap();
    assert!(seen.len() >= 3, "{seen:?}");
    for (label, value) in seen {
        let expected = notes
            .wave(&Plan::default(), &label)
            .map_or(-1.0, |wave| wave as f32);
        assert_eq!(value, expected, "{label}");
    }
    let asked = notes.asked.into_inner().unwrap();
    let order = [
        "start [0, 1] true",
        "gather 0",
        "finished 0",
        "gather 1",
        "finished 1",
    ];
    assert_eq!(asked, order);
}

#[test]
fn a_later_run_asks_only_for_what_is_missing() {
    let bench = Bench::new();
    let failing = Notes {
        fail_at: Some(1),
        ..Notes::default()
    };
    let error = bench.run(Some(&failing)).unwrap_err();
    assert_eq!(error.class, ExitCode::Interrupted);
    assert!(bench.calibration_folder().exists());
    let notes = Notes::default();
    let seen = bench.run(Some(&notes)).unwrap();
    assert!(seen.iter().all(|(_, value)| *value == 1.0), "{seen:?}");
    let asked = notes.asked.into_inner().unwrap();
    assert_eq!(asked, ["start [1] true", "gather 1", "finished 1"]);
    assert!(!bench.calibration_folder().exists());
}

#[test]
fn statistics_need_a_calibrator() {
    let error = Bench::new().run(None).unwrap_err();
    assert_eq!(error.class, ExitCode::PluginFailed);
    assert!(error.message.contains("statistics"), "{error}");
}
