//! What the Hub's refusals mean, and what the user can do about them.

use super::id::ModelId;
use crate::error::{Error, ExitCode};

/// A refusal with everything that decides what it means.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// The model that was asked for.
    pub id: &'a ModelId,
    /// The Hub's address.
    pub endpoint: &'a str,
    /// The host that refused.
    pub host: &'a str,
    /// The file or other thing that was asked for.
    pub what: &'a str,
    /// The status, 400 to 599.
    pub status: u16,
    /// `X-Error-Code`.
    pub code: Option<&'a str>,
    /// `X-Error-Message`.
    pub message: Option<&'a str>,
    /// Whether a token was sent.
    pub with_token: bool,
}

impl Refusal<'_> {
    /// The error for the user.
    pub fn error(&self) -> Error {
        match (self.code, self.status) {
            (Some("GatedRepo"), _) => self.gated(),
            (Some("RevisionNotFound"), _) => self.no_revision(),
            (Some("EntryNotFound"), _) => self.no_file(),
            (Some("RepoNotFound"), _) => self.no_model(),
            (_, 401 | 403) if self.says("disabled") => self.disabled(),
            (_, 401) if self.with_token => self.bad_token(),
            (_, 401) => self.hidden(),
            (_, 403) => self.forbidden(),
            (_, 404) => self.no_model(),
            _ => self.other(),
        }
    }

    fn says(&self, word: &str) -> bool {
        self.message.is_some_and(|message| message.contains(word))
    }

    /// What the server says itself, for the end of a message.
    fn words(&self) -> String {
        let message = self.message.unwrap_or_default().trim();
        match message.is_empty() {
            true => String::new(),
            false => format!(": {}", message.trim_end_matches('.')),
        }
    }

    fn page(&self) -> String {
        format!("{}/{}", self.endpoint, self.id.repository)
    }

    fn gated(&self) -> Error {
        let model = &self.id.repository;
        let error = Error::new(
            ExitCode::AuthenticationRequired,
            format!(
                "{model} is gated: its authors must let you in{}",
                self.words()
            ),
        );
        let page = self.page();
        error.suggest(match self.with_token {
            true => {
                format!("open {page}, accept the terms with the token's account, and try again")
            }
            false => format!(
                "accept the terms on {page}, then set HF_TOKEN to a token of that account or run \
                 `hf auth login`"
            ),
        })
    }

    fn no_revision(&self) -> Error {
        let (model, revision) = (&self.id.repository, &self.id.revision);
        Error::model_not_found(format!("{model} has no revision \"{revision}\"")).suggest(format!(
            "see {}/tree/main for its branches and tags",
            self.page()
        ))
    }

    fn no_file(&self) -> Error {
        Error::model_not_found(format!("{} has no file {}", self.id.repository, self.what))
            .suggest(format!("see {}/tree/{}", self.page(), self.id.revision))
    }

    fn no_model(&self) -> Error {
        let (model, endpoint) = (&self.id.repository, self.endpoint);
        let error = Error::model_not_found(format!(
            "there is no file or folder {}, and {endpoint} knows no model {model}{}",
            self.id,
            self.words()
        ));
        error.suggest(match self.with_token {
            true => {
                "check the spelling; if the model is private, check that the token's account may \
                 read it"
            }
            false => {
                "check the spelling; if the model on the Hub is private, set HF_TOKEN or run `hf \
                 auth login`"
            }
        })
    }

    /// Without a token the Hub hides private models by the answer that it also gives
    /// for unknown ones.
    fn hidden(&self) -> Error {
        let (model, endpoint) = (&self.id.repository, self.endpoint);
        Error::new(
            ExitCode::AuthenticationRequired,
            format!(
                "{endpoint} does not show {model} without a token: it is private, gated, or does \
                 not exist{}",
                self.words()
            ),
        )
        .suggest("check the spelling, then set HF_TOKEN or run `hf auth login`")
    }

    fn bad_token(&self) -> Error {
        Error::new(
            ExitCode::AuthenticationRequired,
            format!("{} does not accept the token{}", self.host, self.words()),
        )
        .suggest(format!(
            "make a new one on {}/settings/tokens, then set HF_TOKEN or run `hf auth login`",
            self.endpoint
        ))
    }

    fn forbidden(&self) -> Error {
        let error = Error::new(
            ExitCode::AuthenticationRequired,
            format!(
                "{} refuses {} of {}{}",
                self.host,
                self.what,
                self.id,
                self.words()
            ),
        );
        let page = self.page();
        error.suggest(match self.with_token {
            true => format!("open {page} and check that the token's account may read the model"),
            false => "set HF_TOKEN or run `hf auth login`".into(),
        })
    }

    fn disabled(&self) -> Error {
        Error::model_not_found(format!("{} was taken down{}", self.page(), self.words()))
            .suggest("choose another model")
    }

    fn other(&self) -> Error {
        Error::other(format!(
            "{} answers {} to the request for {} of {}{}",
            self.host,
            self.status,
            self.what,
            self.id,
            self.words()
        ))
        .suggest(format!("see {}", self.page()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, code: Option<&str>, message: Option<&str>, with_token: bool) -> Error {
        let id = ModelId::parse("org/name@v2").unwrap();
        Refusal {
            id: &id,
            endpoint: "https://hub.co",
            host: "hub.co",
            what: "config.json",
            status,
            code,
            message,
            with_token,
        }
        .error()
    }

    #[test]
    fn classes_and_advice() {
        use ExitCode::{AuthenticationRequired as Auth, ModelNotFound as Absent, Other};
        for (status, code, message, with_token, class, advice) in [
            (401, Some("GatedRepo"), None, false, Auth, "set HF_TOKEN"),
            (
                403,
                Some("GatedRepo"),
                None,
                true,
                Auth,
                "open https://hub.co/org/name,",
            ),
            (
                401,
                Some("RepoNotFound"),
                None,
                false,
                Absent,
                "private, set HF_TOKEN",
            ),
            (
                404,
                Some("RepoNotFound"),
                None,
                true,
                Absent,
                "token's account",
            ),
            (
                404,
                Some("RevisionNotFound"),
                None,
                false,
                Absent,
                "/tree/main",
            ),
            (404, Some("EntryNotFound"), None, false, Absent, "/tree/v2"),
            (404, None, None, false, Absent, "spelling"),
            (401, None, None, false, Auth, "spelling"),
            (
                401,
                None,
                Some("Invalid credentials"),
                true,
                Auth,
                "settings/tokens",
            ),
            (403, None, None, true, Auth, "open https://hub.co/org/name"),
            (403, None, None, false, Auth, "HF_TOKEN"),
            (
                403,
                None,
                Some("Access to this resource is disabled."),
                true,
                Absent,
                "another",
            ),
            (400, None, None, true, Other, "hub.co/org/name"),
        ] {
            let error = error(status, code, message, with_token);
            assert_eq!(error.class, class, "{error}");
            assert!(error.advice().contains(advice), "{}", error.advice());
        }
    }

    #[test]
    fn messages_name_what_and_where() {
        let text = error(404, Some("RevisionNotFound"), None, false).message;
        assert_eq!(text, "org/name has no revision \"v2\"");
        let text = error(400, None, Some("Bad things."), false).message;
        assert_eq!(
            text,
            "hub.co answers 400 to the request for config.json of org/name@v2: Bad things"
        );
    }
}
