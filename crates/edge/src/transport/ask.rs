//! What clients ask for in JSON, the same in every protocol, and the words of the answers. Pure.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Client, ClientError};
use crate::session::Registration;

/// Why an ask is not understood.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub(crate) struct Misunderstood {
    what: &'static str,
    source: serde_json::Error,
}

#[derive(Debug, Default, Deserialize)]
struct Register {
    #[serde(default, rename = "socketId")]
    socket_id: Option<String>,
    #[serde(default, rename = "groupFlag")]
    groups: Option<OneOrMany>,
    #[serde(default)]
    ack: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Leave {
    #[serde(rename = "groupFlag")]
    groups: OneOrMany,
}

#[derive(Debug, Deserialize)]
struct Ack {
    cursor: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "groupFlag must be a string or an array of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Vec<String> {
    fn from(names: OneOrMany) -> Self {
        match names {
            OneOrMany::One(name) => vec![name],
            OneOrMany::Many(names) => names,
        }
    }
}

/// `{socketId?: string, groupFlag?: string | string[], ack?: boolean}`
pub(crate) fn registration(json: &str) -> Result<Registration, Misunderstood> {
    const WHAT: &str = "register takes an object {socketId?, groupFlag?, ack?}";
    let asked: Register =
        serde_json::from_str(json).map_err(|source| Misunderstood { what: WHAT, source })?;
    Ok(Registration {
        socket_id: asked.socket_id,
        groups: asked.groups.map(Vec::from).unwrap_or_default(),
        explicit_acks: asked.ack == Some(true),
    })
}

/// `{groupFlag: string | string[]}`
pub(crate) fn leave(json: &str) -> Result<Vec<String>, Misunderstood> {
    const WHAT: &str = "leave takes an object {groupFlag}";
    let asked: Leave = serde_json::from_str(json).map_err(|source| Misunderstood { what: WHAT, source })?;
    Ok(asked.groups.into())
}

/// The cursor itself, or `{cursor: string}`.
pub(crate) fn acked(json: &str) -> Result<String, Misunderstood> {
    const WHAT: &str = "ack takes a cursor";
    serde_json::from_str::<String>(json)
        .or_else(|_| serde_json::from_str::<Ack>(json).map(|ack| ack.cursor))
        .map_err(|source| Misunderstood { what: WHAT, source })
}

/// What the session is now.
pub(crate) fn registered(client: &Client) -> Value {
    json!({ "ok": true, "socketId": client.socket_id(), "groups": client.groups() })
}

/// `{"ok": false, "error": {code, message}}`
pub(crate) fn refusal(code: &str, message: &str) -> Value {
    json!({ "ok": false, "error": { "code": code, "message": message } })
}

/// Why an ask came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Misunderstood(#[from] Misunderstood),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("there is no event {0:?} here: register, leave and ack are what a client can ask for")]
    Unknown(String),
    #[error("binary arguments are not supported")]
    Binary,
}

impl AskError {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Misunderstood(_) => "bad_request",
            Self::Client(e) => e.code(),
            Self::Unknown(_) => "unknown_event",
            Self::Binary => "binary_not_supported",
        }
    }
}

/// Does what the client asks, and says how it is then.
pub(crate) async fn answer(client: &mut Client, name: &str, json: &str) -> Result<Value, AskError> {
    match name {
        "register" => client.register(registration(json)?).await?,
        "leave" => client.leave(&leave(json)?).await?,
        "ack" => {
            client.ack(&acked(json)?).await?;
            return Ok(json!({ "ok": true }));
        }
        other => return Err(AskError::Unknown(other.chars().take(64).collect())),
    }
    Ok(registered(client))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_registration_is_read_in_every_form() {
        for (json, socket_id, groups) in [
            ("{}", None, &[][..]),
            (r#"{"socketId":"a","groupFlag":"g"}"#, Some("a"), &["g"]),
            (r#"{"socketId":null,"groupFlag":["g","h"],"more":1}"#, None, &["g", "h"]),
            (r#"{"groupFlag":null}"#, None, &[]),
        ] {
            let asked = registration(json).unwrap();
            assert_eq!((asked.socket_id.as_deref(), asked.explicit_acks), (socket_id, false), "{json}");
            assert_eq!(asked.groups, groups, "{json}");
        }
        assert!(registration(r#"{"ack":true}"#).unwrap().explicit_acks);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (json, part) in [
            ("null", "an object"),
            ("7", "an object"),
            (r#"{"socketId":7}"#, "string"),
            (r#"{"groupFlag":{"a":1}}"#, "a string or an array of strings"),
            (r#"{"groupFlag":[1]}"#, "a string or an array of strings"),
            (r#"{"ack":"yes"}"#, "boolean"),
        ] {
            let error = registration(json).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
        assert!(leave("{}").unwrap_err().to_string().contains("groupFlag"));
        assert!(acked("7").is_err());
        assert_eq!(acked(r#""c""#).unwrap(), "c");
        assert_eq!(acked(r#"{"cursor":"c"}"#).unwrap(), "c");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,60}") {
            let _ = (registration(&text), leave(&text), acked(&text));
        }
    }
}
