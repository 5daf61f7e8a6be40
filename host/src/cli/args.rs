//! The command line as one table: parsing, help, completions and the manual all come
//! from it.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use llm_quantize_plugin_api::{INTERFACE_VERSION, parse_size};

/// Group sizes that the command line takes; a format may allow fewer.
const GROUP_SIZES: [i64; 5] = [32, 64, 128, 256, -1];

/// The variable that names a folder for checkpoints.
pub const CHECKPOINT_DIR: &str = "LLM_QUANTIZE_CHECKPOINT_DIR";

/// Program and interface version, for `--version`.
pub fn version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{} (plugin interface {INTERFACE_VERSION})",
            env!("CARGO_PKG_VERSION")
        )
    });
    &TEXT
}

/// Quantize language models to GGUF and other formats, each of which is a plugin.
#[derive(Debug, Parser)]
#[command(name = "llm-quantize", version = version(), max_term_width = 100)]
#[command(
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// How results and errors are printed
    #[arg(long, global = true, value_enum, default_value_t)]
    pub format: OutputFormat,
    /// What stderr shows; quiet shows errors only
    #[arg(long, global = true, value_enum, default_value_t)]
    pub verbosity: Verbosity,
    /// Look for plugins here first; may be repeated
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub plugin_dir: Vec<PathBuf>,
    /// Worker threads [default: the cores available to the process]
    #[arg(long, global = true, value_name = "N", value_parser = whole(1..=4096))]
    pub threads: Option<usize>,
}

/// How results and errors are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people
    #[default]
    Human,
    /// One JSON document on stdout
    Json,
}

/// What stderr shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Verbosity {
    /// Errors only
    Quiet,
    /// Warnings, news and progress too
    #[default]
    Normal,
    /// Details of what is done
    Verbose,
    /// Everything, with what plugins say
    Debug,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Quantize a model
    Quantize(QuantizeArgs),
    /// Run a model on text and write an importance matrix
    Analyze(AnalyzeArgs),
    /// Convert a quantized model to another format
    Convert(ConvertArgs),
    /// Describe a model
    Info(InfoArgs),
    /// Compare quantized models with their original on the same text
    Quality(QualityArgs),
    /// List and describe the installed plugins
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Quantize a tiny built-in model with every installed format
    Demo,
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page
    Man(ManArgs),
}

/// Arguments of `quantize`.
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// A local model folder, a file or folder that an installed plugin can read, or a
    /// Hugging Face Hub id: org/name[/file][@revision]
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: String,
    /// A format of an installed plugin, e.g. gguf
    pub output_format: String,
    /// Quantization level, e.g. Q4_K_M, without regard to case
    #[arg(short, long, value_name = "LEVEL")]
    pub quant_level: String,
    /// Where the output goes, and how
    #[command(flatten)]
    pub output: OutputArgs,
    /// Weights that share a scale: 32, 64, 128, 256, or -1 for a whole row, as far as
    /// the format allows [default: the format's own]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = group_size)]
    pub group_size: Option<i64>,
    /// Importance matrix of the model
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub imatrix: Option<PathBuf>,
    /// The text that the model is run on, if the format takes statistics
    #[command(flatten)]
    pub calibration: CalibrationArgs,
    /// What is kept of an interrupted run
    #[command(flatten)]
    pub checkpoints: CheckpointArgs,
    /// Memory budget of the process, e.g. 8G [default: 80 % of what is free]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_memory: Option<u64>,
    /// Print the plan (tensors, types, sizes, memory, disk) and stop
    #[arg(long)]
    pub dry_run: bool,
}

/// The text of a calibration run.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Calibration")]
pub struct CalibrationArgs {
    /// Text to run the model on: .txt, or .json and .jsonl with a list of strings or with
    /// "text" fields [default: a built-in mixed text]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub calibration_data: Option<PathBuf>,
    /// Samples of the text, 1 to 4096 [default: 256]
    #[arg(long, value_name = "N", value_parser = whole(1..=4096))]
    pub calibration_samples: Option<usize>,
    /// Tokens in a sample [default: 2048, or the model's context if that is shorter]
    #[arg(long, value_name = "N", value_parser = whole(8..=1_048_576))]
    pub calibration_length: Option<usize>,
    /// Which samples are chosen, if the text has more than that
    #[arg(long, value_name = "N")]
    pub calibration_seed: Option<u64>,
    /// Keep the statistics in this folder, and use those that are there
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub calibration_cache: Option<PathBuf>,
}

/// Arguments of `analyze`.
#[derive(Debug, Args)]
pub struct AnalyzeArgs {
    /// A local model folder, a file or folder that an installed plugin can read, or a
    /// Hugging Face Hub id: org/name[/file][@revision]
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: String,
    /// The importance matrix [default: <model>-imatrix.gguf]
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// The text that the model is run on
    #[command(flatten)]
    pub calibration: CalibrationArgs,
    /// Keep Gram matrices in the cache, too: for formats that solve for weights
    #[arg(long, requires = "calibration_cache")]
    pub with_gram: bool,
    /// An option of the plugin's own; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// What is kept of an interrupted run
    #[command(flatten)]
    pub checkpoints: CheckpointArgs,
    /// Memory budget of the process, e.g. 8G [default: 80 % of what is free]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_memory: Option<u64>,
    /// Replace an existing file
    #[arg(long)]
    pub overwrite: bool,
}

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// A file or folder that an installed plugin can read, or a Hugging Face Hub id:
    /// org/name[/file][@revision]
    #[arg(value_hint = ValueHint::AnyPath)]
    pub input_model: String,
    /// A format of an installed plugin, or hf for plain safetensors
    pub output_format: String,
    /// Target level [default: the nearest one]
    #[arg(short, long, value_name = "LEVEL")]
    pub quant_level: Option<String>,
    /// Where the output goes, and how
    #[command(flatten)]
    pub output: OutputArgs,
    /// How quantized weights come into the output
    #[arg(long, value_enum, value_name = "ROUTE", default_value_t)]
    pub route: RouteArg,
    /// Weights that share a scale: 32, 64, 128, 256, or -1 for a whole row, as far as
    /// the format allows [default: the source's, as far as the format has it]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = group_size)]
    pub group_size: Option<i64>,
    /// The model that the input was quantized from, or any other version of it: its config.json
    /// and tokenizer files are taken instead of those that the input has
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub base: Option<String>,
    /// The text that the model is run on, if it is quantized anew
    #[command(flatten)]
    pub calibration: CalibrationArgs,
    /// What is kept of an interrupted run
    #[command(flatten)]
    pub checkpoints: CheckpointArgs,
    /// Memory budget of the process, e.g. 8G [default: 80 % of what is free]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_memory: Option<u64>,
    /// Do not ask about loss of quality
    #[arg(long)]
    pub force: bool,
    /// Print the plan (tensors, types, routes, sizes, memory, disk) and stop
    #[arg(long)]
    pub dry_run: bool,
}

/// How quantized weights come into another format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum RouteArg {
    /// Repack them where the format can hold most of them, else quantize them anew
    #[default]
    Auto,
    /// Repack the very same numbers, or refuse
    Exact,
    /// Repack them, with rounded scales or zeros if need be, or refuse
    Repack,
    /// Quantize them anew
    Requantize,
}

/// What `quantize` and `convert` share.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Folder for the output
    #[arg(short, long, value_name = "PATH", default_value = ".", value_hint = ValueHint::DirPath)]
    pub output_dir: PathBuf,
    /// Name of the output file or folder [default: <model>-<level> in the format's own
    /// convention]
    #[arg(short = 'n', long, value_name = "NAME", value_parser = output_name)]
    pub output_name: Option<String>,
    /// An option of the plugin's own; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// Replace an existing output
    #[arg(long)]
    pub overwrite: bool,
}

/// What is kept of an interrupted run, and used by the next one.
#[derive(Debug, Clone, Args)]
pub struct CheckpointArgs {
    /// Keep no checkpoint, and use none: start from the beginning
    #[arg(long, conflicts_with = "resume")]
    pub no_checkpoints: bool,
    /// Folder for the checkpoint [default: .checkpoint in the output folder]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath)]
    #[arg(env = CHECKPOINT_DIR, hide_env_values = true)]
    #[arg(value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub checkpoint_dir: Option<PathBuf>,
    /// Continue this checkpoint, or the only one in this folder; without it the same
    /// command finds its own
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub resume: Option<PathBuf>,
}

/// Arguments of `info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// A local model folder, a file or folder that an installed plugin can read, or a
    /// Hugging Face Hub id, org/name[/file][@revision], of which only headers are read
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: String,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
}

/// Arguments of `quality`.
#[derive(Debug, Args)]
pub struct QualityArgs {
    /// What was quantized: a local model folder, a file or folder that an installed plugin can
    /// read, or a Hugging Face Hub id: org/name[/file][@revision]
    #[arg(value_hint = ValueHint::AnyPath)]
    pub original: String,
    /// What to compare with it; without any, only the original's perplexity is measured
    #[arg(value_hint = ValueHint::AnyPath)]
    pub quantized: Vec<String>,
    /// Text to compare on: .txt, or .json and .jsonl with a list of strings or with "text"
    /// fields [default: a built-in text]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub data: Option<PathBuf>,
    /// Windows of the text [default: 64, or as many as there are]
    #[arg(long, value_name = "N", value_parser = whole(1..=1_048_576))]
    pub windows: Option<usize>,
    /// Tokens in a window [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "N", value_parser = whole(2..=1_048_576))]
    pub context: Option<usize>,
    /// Write the log-probability of every token into this file, a JSON object a line
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub per_token: Option<PathBuf>,
    /// Memory budget of the process, e.g. 8G [default: 80 % of what is free]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_memory: Option<u64>,
}

/// The commands of `plugin`.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// List the plugins that were found, without running any of their code
    List {
        /// Show the searched folders, owners, permissions and results of probing, too
        #[arg(long)]
        all: bool,
    },
    /// Show the levels and options of a plugin
    Info {
        /// Id of the plugin, or one of its formats
        name: String,
    },
    /// Check a plugin file: trust, metadata, interface, start, and what every plugin must do
    Check {
        /// The library; it need not lie in a plugin folder
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Forget what probing plugins said, so that they are probed again
    Reset {
        /// Id of a plugin, one of its formats, or its file [default: all plugins]
        #[arg(value_hint = ValueHint::FilePath)]
        plugin: Option<PathBuf>,
    },
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this folder instead
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

/// Reads a whole number of a range.
fn whole(
    range: RangeInclusive<usize>,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let (from, to) = (range.start(), range.end());
        match number {
            Some(number) => Ok(number),
            None => Err(format!("give a whole number from {from} to {to}")),
        }
    }
}

fn group_size(text: &str) -> Result<i64, String> {
    let size = text.parse().ok().filter(|size| GROUP_SIZES.contains(size));
    size.ok_or_else(|| "choose 32, 64, 128, 256, or -1 for a whole row".into())
}

fn size(text: &str) -> Result<u64, String> {
    let size = parse_size(text).filter(|&size| size > 0);
    size.ok_or_else(|| "give a size such as 512M or 8G".into())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("give KEY=VALUE".into()),
    }
}

/// A name, not a path: the folder is `--output-dir`.
fn output_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text == "." || text == ".." {
        return Err("give the name of a file or folder".into());
    }
    if text.contains(['/', '\0']) || text.contains(std::path::MAIN_SEPARATOR) {
        return Err("give a name without a folder; --output-dir names the folder".into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["llm-quantize"].into_iter().chain(line.split_whitespace()))
    }

    fn quantize(line: &str) -> QuantizeArgs {
        match parse(line).unwrap().command {
            Command::Quantize(args) => args,
            other => panic!("not quantize: {other:?}"),
        }
    }

    #[test]
    fn the_table_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn quantize_takes_everything() {
        let args = quantize(
            "quantize m gguf -q q4_k_m -o out -n name.gguf --group-size -1 --imatrix i.dat \
             --set a=b=c --set pure=true --max-memory 8G --dry-run --overwrite",
        );
        assert_eq!(
            (args.model.as_str(), args.output_format.as_str()),
            ("m", "gguf")
        );
        assert_eq!(args.group_size, Some(-1));
        assert_eq!(args.max_memory, Some(8 << 30));
        let pairs: Vec<_> = args
            .output
            .set
            .iter()
            .map(|(k, v)| (&k[..], &v[..]))
            .collect();
        assert_eq!(pairs, [("a", "b=c"), ("pure", "true")]);
        assert!(args.dry_run && args.output.overwrite);
        let args = quantize("quantize m gguf -q Q8_0");
        assert_eq!(args.output.output_dir, PathBuf::from("."));
        assert_eq!((args.group_size, args.max_memory), (None, None));
    }

    #[test]
    fn calibrations_take_everything() {
        let args = quantize(
            "quantize m gguf -q q4_k_m --calibration-data t.jsonl --calibration-samples 4096 \
             --calibration-length 512 --calibration-seed 7 --calibration-cache c",
        );
        let text = args.calibration;
        assert_eq!(text.calibration_data, Some(PathBuf::from("t.jsonl")));
        assert_eq!(text.calibration_samples, Some(4096));
        assert_eq!(text.calibration_length, Some(512));
        assert_eq!(text.calibration_seed, Some(7));
        assert_eq!(text.calibration_cache, Some(PathBuf::from("c")));
        let cli = parse("analyze m -o i.gguf --calibration-cache c --with-gram").unwrap();
        match cli.command {
            Command::Analyze(args) => assert!(args.with_gram && !args.overwrite),
            other => panic!("not analyze: {other:?}"),
        }
    }

    #[test]
    fn quality_takes_any_number_of_models() {
        let parsed = |line: &str| match parse(line).unwrap().command {
            Command::Quality(args) => args,
            other => panic!("not quality: {other:?}"),
        };
        let args = parsed("quality o a b --windows 9 --context 128 --data t.txt --per-token p");
        assert_eq!((args.original.as_str(), args.quantized.len()), ("o", 2));
        assert_eq!((args.windows, args.context), (Some(9), Some(128)));
        assert!(parsed("quality o").quantized.is_empty());
    }

    #[test]
    fn global_options_stand_anywhere() {
        let cli = parse("--threads 3 info m --format json --plugin-dir a --plugin-dir b").unwrap();
        assert_eq!(cli.global.threads, Some(3));
        assert_eq!(cli.global.format, OutputFormat::Json);
        assert_eq!(
            cli.global.plugin_dir,
            [PathBuf::from("a"), PathBuf::from("b")]
        );
        assert_eq!(cli.global.verbosity, Verbosity::Normal);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "quantize m gguf",
            "quantize m -q Q4",
            "quantize m gguf -q Q4 --group-size 48",
            "quantize m gguf -q Q4 --max-memory 0",
            "quantize m gguf -q Q4 --max-memory lots",
            "quantize m gguf -q Q4 --set novalue",
            "quantize m gguf -q Q4 --set =value",
            "quantize m gguf -q Q4 -n a/b",
            "quantize m gguf -q Q4 -n ..",
            "quantize m gguf -q Q4 --calibration-samples 0",
            "quantize m gguf -q Q4 --calibration-samples 4097",
            "quantize m gguf -q Q4 --calibration-length 7",
            "analyze",
            "quality",
            "quality m q --windows 0",
            "quality m q --context 1",
            "analyze m --with-gram",
            "--threads 0 info m",
            "quantize m gguf -q Q4 --no-checkpoints --resume x",
            "info m --verbosity loud",
            "plugin info",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert_ne!(error.kind(), ErrorKind::DisplayHelp, "{line}");
        }
    }
}
