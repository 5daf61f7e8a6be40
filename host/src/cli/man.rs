//! `man`: the manual, from the same table as the help.

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::args::{CHECKPOINT_DIR, Cli, ManArgs};
use crate::error::{Error, ExitCode, Result};
use crate::output::emit_bytes;

/// Variables that the program looks at, for the manual.
const ENVIRONMENT: [(&str, &str); 12] = [
    (
        CHECKPOINT_DIR,
        "Folder for checkpoints, instead of .checkpoint in the output folder.",
    ),
    (
        "HF_TOKEN",
        "Token for gated and private models on the Hugging Face Hub; else the file that `hf auth \
         login` writes is read, or the one that HF_TOKEN_PATH names.",
    ),
    (
        "HF_ENDPOINT",
        "Address of the Hub or of a mirror, by default https://huggingface.co.",
    ),
    (
        "HF_HOME",
        "Folder of the Hub's clients, by default ~/.cache/huggingface; models are kept in its \
         folder hub.",
    ),
    (
        "HF_HUB_CACHE",
        "Folder of the models, instead of HF_HOME's hub.",
    ),
    (
        "HF_HUB_OFFLINE",
        "If 1, nothing is downloaded: only models in the cache are used.",
    ),
    (
        "LLM_QUANTIZE_CACHE",
        "Folder for what can be had again: the results of probing plugins, and in its folder hub \
         models, apart from those of the Hub's other clients.",
    ),
    (
        "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY",
        "Proxies for downloads, as usual.",
    ),
    (
        "LLM_QUANTIZE_PLUGIN_PATH",
        "Folders to look for plugins in, separated like PATH.",
    ),
    (
        "LLM_QUANTIZE_PROBE_TIMEOUT",
        "Seconds that a plugin may take to start when it is probed; 10 if not set.",
    ),
    ("NO_COLOR", "If set and not empty, no colours are used."),
    (
        "CLICOLOR_FORCE",
        "If set and neither empty nor 0, colours are used even if stderr is no terminal.",
    ),
];

/// Prints one page for everything, or writes a page for each command into a folder.
///
/// # Errors
/// If stdout or the folder cannot be written.
pub fn run(args: &ManArgs) -> Result<()> {
    match &args.dir {
        Some(folder) => write_pages(folder),
        None => emit_bytes(&single_page()?),
    }
}

fn write_pages(folder: &Path) -> Result<()> {
    let write = |error| Error::io("write", folder, error);
    std::fs::create_dir_all(folder).map_err(write)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(write)
}

fn single_page() -> Result<Vec<u8>> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let man = Man::new(root.clone());
    // Not the list of subcommands, which refers to pages of their own.
    let mut page = render(|out| {
        man.render_title(out)?;
        man.render_name_section(out)?;
        man.render_synopsis_section(out)?;
        man.render_description_section(out)?;
        man.render_options_section(out)
    })?;
    add_commands(&root, &mut page)?;
    add_list(
        "EXIT STATUS",
        std::iter::once(("0".into(), "success"))
            .chain(ExitCode::ALL.map(|class| (class.code().to_string(), class.meaning()))),
        &mut page,
    );
    let variables = ENVIRONMENT.map(|(name, text)| (name.to_owned(), text));
    add_list("ENVIRONMENT", variables.into_iter(), &mut page);
    Ok(page)
}

/// A section for each command that does something, its own sections one level down.
fn add_commands(parent: &Command, page: &mut Vec<u8>) -> Result<()> {
    for command in parent.get_subcommands() {
        if command.has_subcommands() {
            add_commands(command, page)?;
            continue;
        }
        // The options of every command were described above.
        let own = command.clone().mut_args(|argument| {
            let global = argument.is_global_set();
            let known = matches!(argument.get_id().as_str(), "help" | "version");
            argument.hide(global || known)
        });
        let man = Man::new(own);
        let body = render(|out| {
            man.render_description_section(out)?;
            man.render_synopsis_section(out)?;
            man.render_options_section(out)
        })?;
        let title = command.get_bin_name().unwrap_or_else(|| command.get_name());
        page.extend(format!(".SH \"{}\"\n", title.to_uppercase()).bytes());
        let body = String::from_utf8_lossy(&body).replace("\n.SH ", "\n.SS ");
        let body = match body.strip_prefix(".SH ") {
            Some(rest) => format!(".SS {rest}"),
            None => body,
        };
        page.extend(body.bytes());
    }
    Ok(())
}

fn add_list<'a>(title: &str, entries: impl Iterator<Item = (String, &'a str)>, page: &mut Vec<u8>) {
    page.extend(format!(".SH \"{title}\"\n").bytes());
    for (term, text) in entries {
        page.extend(format!(".TP\n\\fB{term}\\fR\n{text}\n").bytes());
    }
}

fn render(body: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    body(&mut out).map_err(|error| Error::other(format!("cannot build the manual: {error}")))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_covers_every_command_and_exit_code() {
        let page = String::from_utf8(single_page().unwrap()).unwrap();
        for title in ["QUANTIZE", "PLUGIN LIST", "COMPLETIONS"] {
            assert!(
                page.contains(&format!(".SH \"LLM-QUANTIZE {title}\"")),
                "{page}"
            );
        }
        assert!(page.contains("max\\-memory"));
        assert!(page.contains("\\fB130\\fR"));
        assert_eq!(page.matches(".TH ").count(), 1);
        assert_eq!(page.matches("Look for plugins here first").count(), 1);
    }
}
