//! Finds the errors in a source file.

use std::collections::HashMap;

use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ExprCall, ExprMethodCall, FnArg, Pat, Stmt};

use super::template::{message, of_attribute};

/// An error that the code can raise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Variant of `ExitCode` or of the plugin API's `ErrorKind`, `Io`, or the name of
    /// an error type.
    pub class: String,
    /// What is said.
    pub message: String,
    /// What to do, if it is said here.
    pub advice: Option<String>,
    /// The source file.
    pub file: String,
}

/// Short forms of `Error::new`.
const CONSTRUCTORS: [(&str, &str); 10] = [
    ("other", "Other"),
    ("validation", "Validation"),
    ("invalid_arguments", "InvalidArguments"),
    ("model_not_found", "ModelNotFound"),
    ("unsupported", "UnsupportedConversion"),
    ("invalid_request", "InvalidRequest"),
    ("corrupt", "CorruptInput"),
    ("verification", "VerificationFailed"),
    ("internal", "Internal"),
    ("importance_matrix", "ImportanceMatrix"),
];

/// The class of what is no error of its own: other messages end with it.
pub const CAUSE: &str = "Cause";

/// Functions with such a part in their name put causes into words.
const EXPLAINERS: [&str; 2] = ["explain", "difference"];

/// All errors of a file, in the order of the code.
pub fn errors(file: &str, code: &str) -> Vec<Found> {
    let parsed = syn::parse_file(code).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut helpers = Helpers::default();
    helpers.visit_file(&parsed);
    let mut collector = Collector::new(file, helpers.found);
    collector.visit_file(&parsed);
    // A helper's own message is of no use where its uses are known.
    let Collector {
        helpers,
        mut found,
        used,
        ..
    } = collector;
    let templates: Vec<&Found> = used.iter().map(|name| &helpers[name].error).collect();
    found.retain(|error| {
        !templates
            .iter()
            .any(|helper| helper.message == error.message)
    });
    found
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|name| name == "test")
    })
}

/// A function or closure that makes an error with a text that it is given.
#[derive(Debug, Clone)]
struct Helper {
    /// Place of the text among the arguments.
    argument: usize,
    /// Its name in the message.
    placeholder: String,
    error: Found,
}

#[derive(Default)]
struct Helpers {
    found: HashMap<String, Helper>,
}

impl Helpers {
    fn note(
        &mut self,
        name: String,
        parameters: Vec<Option<String>>,
        body: &impl Fn(&mut Collector<'_>),
    ) {
        let mut inner = Collector::new("", HashMap::new());
        body(&mut inner);
        let [error] = inner.found.as_slice() else {
            return;
        };
        for (argument, parameter) in parameters.iter().enumerate() {
            let Some(parameter) = parameter else { continue };
            let placeholder = format!("<{}>", parameter.replace('_', " "));
            if error.message.ends_with(&placeholder) {
                let error = error.clone();
                self.found.insert(
                    name,
                    Helper {
                        argument,
                        placeholder,
                        error,
                    },
                );
                return;
            }
        }
    }
}

fn name_of(pattern: &Pat) -> Option<String> {
    match pattern {
        Pat::Ident(name) => Some(name.ident.to_string()),
        Pat::Type(typed) => name_of(&typed.pat),
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Helpers {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        let parameters = parameters(function.sig.inputs.iter());
        self.note(function.sig.ident.to_string(), parameters, &|inner| {
            inner.visit_block(&function.block);
        });
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        let parameters = parameters(function.sig.inputs.iter());
        self.note(function.sig.ident.to_string(), parameters, &|inner| {
            inner.visit_block(&function.block);
        });
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        if let Stmt::Local(local) = statement
            && let (Some(name), Some(init)) = (name_of(&local.pat), &local.init)
            && let Expr::Closure(closure) = &*init.expr
        {
            let parameters = closure.inputs.iter().map(name_of).collect();
            self.note(name, parameters, &|inner| inner.visit_expr(&closure.body));
        }
        visit::visit_stmt(self, statement);
    }
}

fn parameters<'a>(inputs: impl Iterator<Item = &'a FnArg>) -> Vec<Option<String>> {
    let typed = inputs.filter_map(|input| match input {
        FnArg::Typed(typed) => Some(name_of(&typed.pat)),
        FnArg::Receiver(_) => None,
    });
    typed.collect()
}

struct Collector<'a> {
    file: &'a str,
    helpers: HashMap<String, Helper>,
    found: Vec<Found>,
    /// Names of the helpers that were called.
    used: Vec<String>,
    /// Of the `.suggest(…)` that is being visited.
    advice: Option<String>,
}

impl<'a> Collector<'a> {
    fn new(file: &'a str, helpers: HashMap<String, Helper>) -> Self {
        Self {
            file,
            helpers,
            found: Vec::new(),
            used: Vec::new(),
            advice: None,
        }
    }

    fn add(&mut self, class: &str, message: &str) {
        // A line break in the code is none in the message.
        let words: Vec<&str> = message.split_whitespace().collect();
        self.found.push(Found {
            class: class.to_owned(),
            message: words.join(" "),
            advice: self.advice.clone(),
            file: self.file.to_owned(),
        });
    }

    fn constructor(&mut self, name: &str, arguments: &[&Expr]) {
        let short = CONSTRUCTORS.iter().find(|(short, _)| *short == name);
        match (name, short, arguments) {
            (_, Some((_, class)), [text, ..]) => {
                if let Some(text) = message(text) {
                    self.add(class, &text);
                }
            }
            ("new", _, [Expr::Path(class), text]) => {
                let class = class
                    .path
                    .segments
                    .last()
                    .map(|last| last.ident.to_string());
                if let (Some(class), Some(text)) = (class, message(text)) {
                    self.add(&class, &text);
                }
            }
            ("io", _, [verb, ..]) => {
                if let Some(verb) = message(verb) {
                    self.add(
                        "Io",
                        &format!("cannot {verb} <path>: <the system's reason>"),
                    );
                }
            }
            _ => {}
        }
    }

    fn helper(&mut self, name: &str, arguments: &[&Expr]) {
        let Some(helper) = self.helpers.get(name).cloned() else {
            return;
        };
        let Some(text) = arguments
            .get(helper.argument)
            .and_then(|text| message(text))
        else {
            return;
        };
        let message = helper.error.message.replace(&helper.placeholder, &text);
        let before = self.advice.clone();
        self.advice = before.clone().or(helper.error.advice);
        self.add(&helper.error.class, &message);
        self.advice = before;
        self.used.push(name.to_owned());
    }
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        let arguments: Vec<&Expr> = call.args.iter().collect();
        if let Expr::Path(function) = &*call.func {
            let names: Vec<String> = function
                .path
                .segments
                .iter()
                .map(|part| part.ident.to_string())
                .collect();
            match names.as_slice() {
                [err] if err == "Err" => {
                    if let Some(text) = arguments.first().and_then(|text| message(text)) {
                        self.add(CAUSE, &text);
                    }
                }
                [.., kind, name] if kind == "Error" => self.constructor(name, &arguments),
                [name] | [_, name] => self.helper(name, &arguments),
                _ => {}
            }
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        let arguments: Vec<&Expr> = call.args.iter().collect();
        if call.method == "suggest" {
            let before = self.advice.clone();
            self.advice = arguments
                .first()
                .and_then(|text| message(text))
                .or(before.clone());
            self.visit_expr(&call.receiver);
            self.advice = before;
            return;
        }
        self.helper(&call.method.to_string(), &arguments);
        visit::visit_expr_method_call(self, call);
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        let name = function.sig.ident.to_string();
        if EXPLAINERS.iter().any(|part| name.contains(part)) {
            Causes(self).visit_block(&function.block);
        }
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        let name = function.sig.ident.to_string();
        if EXPLAINERS.iter().any(|part| name.contains(part)) {
            Causes(self).visit_block(&function.block);
        }
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        for variant in &item.variants {
            for attribute in &variant.attrs {
                if attribute.path().is_ident("error")
                    && let Ok(text) = attribute.parse_args::<syn::LitStr>()
                {
                    let text = of_attribute(&text.value());
                    // `{0}` alone passes on what another type says.
                    if text != "<…>" {
                        self.add(&item.ident.to_string(), &text);
                    }
                }
            }
        }
    }

    /// What is said by `fatal`.
    fn visit_expr_struct(&mut self, item: &'ast syn::ExprStruct) {
        if item.path.is_ident("LastWords") {
            let field = |name: &str| {
                let named = |field: &&syn::FieldValue| matches!(&field.member, syn::Member::Named(n) if n == name);
                item.fields.iter().find(named).map(|field| &field.expr)
            };
            let text = |name| field(name).and_then(message);
            if let Some(Expr::Path(class)) = field("class")
                && let Some(class) = class.path.segments.last()
            {
                let class = class.ident.to_string();
                let after = text("after").unwrap_or_else(|| "<how it ended>".into());
                self.advice = text("hint");
                let name = if class == "PluginFailed" {
                    "id"
                } else {
                    "path"
                };
                let before = text("before").unwrap_or_default();
                self.add(&class, &format!("{before}<{name}>{after}"));
                self.advice = None;
            }
        }
        visit::visit_expr_struct(self, item);
    }
}

/// Takes every sentence for a cause.
struct Causes<'a, 'b>(&'a mut Collector<'b>);

impl<'ast> Visit<'ast> for Causes<'_, '_> {
    fn visit_expr(&mut self, expression: &'ast Expr) {
        match message(expression) {
            Some(text) if text.trim().contains(' ') => self.0.add(CAUSE, &text),
            _ => visit::visit_expr(self, expression),
        }
    }
}
