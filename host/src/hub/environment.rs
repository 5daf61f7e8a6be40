//! The variables that every client of the Hub looks at.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use hf_hub::Cache;

use crate::error::{Error, Result};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where the Hub is, where its cache is, and who asks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The Hub's address, without a slash at the end.
    pub endpoint: String,
    /// The cache's folder, which holds `models--org--name`.
    pub cache: PathBuf,
    /// What proves who asks.
    pub token: Option<Token>,
    /// Nothing may be asked of any server.
    pub offline: bool,
}

/// A secret: shown nowhere but in the header of a request to the Hub itself.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The value of an `Authorization` header.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Settings {
    /// Reads the variables by way of a function.
    ///
    /// # Errors
    /// If the endpoint is no address, or the token no token.
    pub fn from_env(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let path = |name: &str| {
            let value = variable(name).filter(|value| !value.is_empty())?;
            Some(expand_home(PathBuf::from(value)))
        };
        let text = |name: &str| {
            let value = variable(name)?.into_string().ok()?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let home = path("HF_HOME")
            .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(dirs::home_dir()?.join(".cache/huggingface")))
            .ok_or_else(|| {
                Error::other("there is no home folder to keep downloads in")
                    .suggest("set HF_HOME to a folder")
            })?;
        let cache = path("LLM_QUANTIZE_CACHE")
            .map(|folder| folder.join("hub"))
            .or_else(|| path("HF_HUB_CACHE"))
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| home.join("hub"));
        let token = match text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")) {
            Some(token) => Some(token),
            None => token_file(path("HF_TOKEN_PATH").as_deref(), &home),
        };
        let truth = |name: &str| {
            text(name).is_some_and(|value| {
                matches!(
                    value.to_ascii_lowercase().as_str(),
                    "1" | "on" | "yes" | "true"
                )
            })
        };
        Ok(Self {
            endpoint: endpoint(text("HF_ENDPOINT"))?,
            cache,
            token: token.map(check_token).transpose()?,
            offline: truth("HF_HUB_OFFLINE") || truth("TRANSFORMERS_OFFLINE"),
        })
    }
}

fn endpoint(given: Option<String>) -> Result<String> {
    let address = given.unwrap_or_else(|| DEFAULT_ENDPOINT.into());
    let address = address.trim_end_matches('/');
    let parsed: Option<ureq::http::Uri> = address.parse().ok();
    let valid = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
    });
    match valid {
        true => Ok(address.to_owned()),
        false => Err(Error::invalid_arguments(format!(
            "HF_ENDPOINT is no address of a server: {address}"
        ))
        .suggest(format!("give an address such as {DEFAULT_ENDPOINT}"))),
    }
}

/// The token that `hf auth login` wrote.
fn token_file(given: Option<&Path>, home: &Path) -> Option<String> {
    match given {
        // A file that is not there means that nobody logged in.
        Some(path) => Some(std::fs::read_to_string(path).ok()?.trim().to_owned()),
        None => Cache::new(home.join("hub")).token(),
    }
    .filter(|token| !token.is_empty())
}

fn check_token(token: String) -> Result<Token> {
    match token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(Token(token)),
        false => Err(
            Error::invalid_arguments("the Hub token holds characters that no token has")
                .suggest("set HF_TOKEN to the token alone, or run `hf auth login` again"),
        ),
    }
}

fn expand_home(path: PathBuf) -> PathBuf {
    match (path.strip_prefix("~"), dirs::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings> {
        Settings::from_env(|name| {
            let found = pairs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    fn cache(pairs: &[(&str, &str)]) -> PathBuf {
        settings(pairs).unwrap().cache
    }

    #[test]
    fn the_cache_is_found_in_the_usual_order() {
        let all = [
            ("LLM_QUANTIZE_CACHE", "/own"),
            ("HF_HUB_CACHE", "/hub-cache"),
            ("HF_HOME", "/hf"),
            ("XDG_CACHE_HOME", "/xdg"),
        ];
        for (skip, expected) in ["/own/hub", "/hub-cache", "/hf/hub", "/xdg/huggingface/hub"]
            .iter()
            .enumerate()
        {
            assert_eq!(cache(&all[skip..]), Path::new(expected));
        }
        assert!(cache(&[]).ends_with(".cache/huggingface/hub"));
        assert!(cache(&[("HF_HOME", "~/x")]).is_absolute());
        assert_eq!(
            cache(&[("LLM_QUANTIZE_CACHE", ""), ("HF_HOME", "/hf")]),
            Path::new("/hf/hub")
        );
    }

    #[test]
    fn the_token_comes_from_the_variable_then_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let header = |pairs: &[(&str, &str)]| settings(pairs).unwrap().token.map(|t| t.header());
        assert_eq!(header(&[("HF_HOME", home)]), None);
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(header(&[("HF_HOME", home)]).unwrap(), "Bearer hf_file");
        let other = folder.path().join("other");
        std::fs::write(&other, "hf_other\n").unwrap();
        let given = [
            ("HF_HOME", home),
            ("HF_TOKEN_PATH", other.to_str().unwrap()),
        ];
        assert_eq!(header(&given).unwrap(), "Bearer hf_other");
        let both = [("HF_HOME", home), ("HF_TOKEN", " hf_env\n")];
        assert_eq!(header(&both).unwrap(), "Bearer hf_env");
        // The cache may be elsewhere; the token does not move with it.
        let moved = [("HF_HOME", home), ("HF_HUB_CACHE", "/elsewhere")];
        assert_eq!(header(&moved).unwrap(), "Bearer hf_file");
    }

    #[test]
    fn a_token_is_never_shown() {
        let shown = format!("{:?}", settings(&[("HF_TOKEN", "hf_secret")]).unwrap());
        assert!(!shown.contains("hf_secret"), "{shown}");
        let error = settings(&[("HF_TOKEN", "hf_se\ncret")]).unwrap_err();
        assert_eq!(error.class, ExitCode::InvalidArguments);
        assert!(!error.message.contains("cret"));
    }

    #[test]
    fn endpoints_and_flags() {
        let endpoint = |value| settings(&[("HF_ENDPOINT", value)]).map(|s| s.endpoint);
        assert_eq!(endpoint("http://h:1/x/").unwrap(), "http://h:1/x");
        assert_eq!(endpoint("").unwrap(), DEFAULT_ENDPOINT);
        assert!(endpoint("ftp://h").is_err() && endpoint("h/x").is_err());
        let offline = |value| settings(&[("HF_HUB_OFFLINE", value)]).unwrap().offline;
        assert!(offline("1") && offline("TRUE") && !offline("0") && !offline(""));
    }
}
