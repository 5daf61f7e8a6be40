//! Serves a folder as the repository `org/tiny-llama` of a Hub on this machine, for
//! checks with other clients: prints the Hub's address, and ends with its stdin.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use llm_quantize_tests::hub_server::HubServer;

// What it prints is its whole purpose.
#[allow(clippy::print_stdout, clippy::print_stderr)]
fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: loopback-hub FOLDER");
        return ExitCode::FAILURE;
    };
    let server = HubServer::of_folder(Path::new(&folder));
    println!("{}", server.url);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    ExitCode::SUCCESS
}
