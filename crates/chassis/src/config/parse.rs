//! From arguments and environment to settings, or to the list of all that is wrong with them.
//!
//! clap stops at the first bad value. So: note it, make that one argument lenient, ask again, until clap has nothing
//! left to say.

use std::any::TypeId;
use std::error::Error as _;
use std::ffi::OsString;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Parser};

use super::{Problems, Secret, SecretUrl, Settings};

/// Why there are no settings.
#[derive(Debug)]
pub enum Stop {
    /// `--help` or `--version` was asked for: this is the answer.
    Answer(String),
    /// The settings are wrong.
    Problems(Problems),
}

/// Reads settings from `args` (the program's name first) and the environment.
///
/// # Errors
/// All bad values at once; when every value could be read, all that [`Settings::validate`] finds.
pub fn parse<S: Settings>(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<S, Stop> {
    parse_with(args, S::validate)
}

/// The same for a program that is no service, and so has nothing of [`Common`](super::Common).
///
/// # Errors
/// All bad values at once; when every value could be read, all that `validate` finds.
pub fn parse_with<P: Parser>(
    args: impl IntoIterator<Item = impl Into<OsString>>,
    validate: impl Fn(&P, &mut Problems),
) -> Result<P, Stop> {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let mut command = P::command().mut_args(hide_secrets);
    let mut problems = Problems::default();
    loop {
        match command.clone().try_get_matches_from(&args) {
            Ok(_) if !problems.is_empty() => return Err(Stop::Problems(problems)),
            Ok(matches) => return settled(P::from_arg_matches(&matches), validate),
            Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                return Err(Stop::Answer(error.to_string()));
            }
            Err(error) => match lenient(&command, &error, &mut problems) {
                Some(next) => command = next,
                None => return Err(Stop::Problems(problems)),
            },
        }
    }
}

fn settled<P>(parsed: Result<P, clap::Error>, validate: impl Fn(&P, &mut Problems)) -> Result<P, Stop> {
    let mut problems = Problems::default();
    match parsed {
        Ok(settings) => {
            validate(&settings, &mut problems);
            if problems.is_empty() { Ok(settings) } else { Err(Stop::Problems(problems)) }
        }
        Err(error) => {
            problems.add("settings", first_line(&error));
            Err(Stop::Problems(problems))
        }
    }
}

/// Notes the error, and returns the command that no longer minds it; `None` when clap cannot go on.
fn lenient(command: &Command, error: &clap::Error, problems: &mut Problems) -> Option<Command> {
    let culprits: Vec<Arg> = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::ValueValidation | ErrorKind::InvalidValue, Some(ContextValue::String(shown))) => {
            named(command, shown).into_iter().collect()
        }
        (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(all))) => {
            all.iter().filter_map(|shown| named(command, shown)).collect()
        }
        _ => Vec::new(),
    };
    if culprits.is_empty() {
        problems.add("command line", first_line(error));
        return None;
    }
    let mut next = command.clone();
    for arg in culprits {
        problems.add(&setting(&arg), complaint(&arg, error));
        next = next.mut_arg(arg.get_id(), accept_anything);
    }
    Some(next)
}

fn accept_anything(arg: Arg) -> Arg {
    match arg.get_action() {
        ArgAction::Set | ArgAction::Append => arg.required(false).value_parser(ValueParser::os_string()),
        // a switch takes its only bad values from the environment
        _ => arg.env(None::<&str>),
    }
}

fn named(command: &Command, shown: &str) -> Option<Arg> {
    // an argument can show itself only once its command is built, and a built command minds being changed
    let mut built = command.clone();
    built.build();
    built.get_arguments().find(|arg| arg.to_string() == shown).cloned()
}

/// The name by which people set it: its environment variable, else its flag.
fn setting(arg: &Arg) -> String {
    match (arg.get_env(), arg.get_long()) {
        (Some(variable), _) => variable.to_string_lossy().into_owned(),
        (None, Some(flag)) => format!("--{flag}"),
        (None, None) => arg.get_id().to_string(),
    }
}

fn complaint(arg: &Arg, error: &clap::Error) -> String {
    if error.kind() == ErrorKind::MissingRequiredArgument {
        return "is required and not set".to_owned();
    }
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) if !is_secret(arg) => format!("`{value}`"),
        _ => "its value".to_owned(),
    };
    match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => format!("{value}: {source}"),
        (None, Some(ContextValue::Strings(valid))) => format!("{value} is not one of {}", valid.join(", ")),
        (None, _) => format!("{value} is not valid"),
    }
}

fn is_secret(arg: &Arg) -> bool {
    let kind = arg.get_value_parser().type_id();
    kind == TypeId::of::<Secret>() || kind == TypeId::of::<SecretUrl>()
}

fn hide_secrets(arg: Arg) -> Arg {
    let secret = is_secret(&arg);
    arg.hide_env_values(secret)
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
