//! Format strings as a reader sees them: `{path}` becomes `<path>`.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Expr, Lit, LitStr, Token};

/// A message that an expression gives: a literal, a `format!`, or one of them behind
/// `&`, `.into()` and the like.
pub fn message(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        Expr::Macro(call) if call.mac.path.is_ident("format") => formatted(call.mac.tokens.clone()),
        Expr::Reference(reference) => message(&reference.expr),
        Expr::MethodCall(call) if call.args.is_empty() => {
            let passes = ["into", "to_owned", "to_string"];
            passes
                .iter()
                .any(|name| call.method == name)
                .then(|| message(&call.receiver))?
        }
        _ => None,
    }
}

/// A format string whose arguments are not looked at, as in `#[error("…")]`.
pub fn of_attribute(text: &str) -> String {
    render(text, &[])
}

struct Formatted {
    text: LitStr,
    arguments: Vec<Expr>,
}

impl Parse for Formatted {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let text = input.parse()?;
        if input.parse::<Option<Token![,]>>()?.is_none() {
            return Ok(Self {
                text,
                arguments: Vec::new(),
            });
        }
        let arguments = Punctuated::<Expr, Token![,]>::parse_terminated(input)?;
        Ok(Self {
            text,
            arguments: arguments.into_iter().collect(),
        })
    }
}

fn formatted(tokens: TokenStream) -> Option<String> {
    let parsed = Formatted::parse.parse2(tokens).ok()?;
    let names: Vec<String> = parsed.arguments.iter().map(name_of).collect();
    Some(render(&parsed.text.value(), &names))
}

/// Replaces the placeholders; `positional` are the names of the arguments.
fn render(text: &str, positional: &[String]) -> String {
    let mut out = String::new();
    let mut next = positional.iter();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let doubled = rest[at + 1..].starts_with(&rest[at..=at]);
        if doubled {
            out.push_str(&rest[at..=at]);
            rest = &rest[at + 2..];
            continue;
        }
        let end = rest[at..].find('}').map_or(rest.len(), |end| at + end);
        let name = rest[at + 1..end].split(':').next().unwrap_or_default();
        let shown = match name {
            "" => next.next().map_or("…", |name| name),
            name if name.starts_with(|c: char| c.is_ascii_digit()) => "…",
            name => name,
        };
        out.push_str(&format!(
            "<{}>",
            shown.trim_start_matches("r#").replace('_', " ")
        ));
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// What an argument is about: the last of its names that says something.
fn name_of(expression: &Expr) -> String {
    const EMPTY: [&str; 24] = [
        "self",
        "display",
        "len",
        "to_string_lossy",
        "unwrap_or_default",
        "as_str",
        "path",
        "to_string",
        "join",
        "escape_debug",
        "iter",
        "map",
        "collect",
        "clone",
        "human",
        "bytes",
        "as_ref",
        "first",
        "get",
        "count",
        "d",
        "env",
        "unwrap_or",
        "concat",
    ];
    let mut names = Vec::new();
    identifiers(expression.to_token_stream(), &mut names);
    let telling = names
        .iter()
        .rev()
        .find(|name| !EMPTY.contains(&name.as_str()));
    let path = || names.iter().find(|name| *name == "path");
    telling
        .or_else(path)
        .or(names.last())
        .cloned()
        .unwrap_or_else(|| "…".into())
}

fn identifiers(tokens: TokenStream, names: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Ident(name) => names.push(name.to_string()),
            TokenTree::Group(group) => identifiers(group.stream(), names),
            _ => {}
        }
    }
}
