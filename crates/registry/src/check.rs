//! What comes in by gRPC, checked against the limits before anything acts on it: `INVALID_ARGUMENT` names the field.

use herald_wire::registry::{Claims, Heartbeat, Hello, Releases};
use herald_wire::{Limits, Target};
use tonic::Status;

/// The most claims, releases or socketIds one message may hold.
pub(crate) const ITEMS_MAX: usize = 1_000;
/// The longest edge id, in bytes.
pub(crate) const EDGE_ID_BYTES_MAX: usize = 256;
/// The longest address of an edge, in bytes.
pub(crate) const ADDRESS_BYTES_MAX: usize = 512;
/// The longest reason of a WebSocket close frame, in bytes (RFC 6455 section 5.5).
pub(crate) const REASON_BYTES_MAX: usize = 123;
const FULLNESS_MAX: u32 = 1_000;

type Checked = Result<(), Box<Status>>;

pub(crate) fn hello(hello: &Hello) -> Checked {
    text("hello.edge_id", &hello.edge_id, EDGE_ID_BYTES_MAX)?;
    text("hello.address", &hello.address, ADDRESS_BYTES_MAX)
}

pub(crate) fn heartbeat(beat: &Heartbeat) -> Checked {
    let fullness = beat.pressure.as_ref().map_or(0, |pressure| pressure.fullness_permille);
    if fullness > FULLNESS_MAX {
        return Err(invalid(
            "heartbeat.pressure.fullness_permille",
            format!("is {fullness}; at most {FULLNESS_MAX}"),
        ));
    }
    Ok(())
}

pub(crate) fn claims(claims: &Claims, limits: &Limits) -> Checked {
    count("claims.claims", claims.claims.len())?;
    let ids = claims.claims.iter().map(|claim| claim.socket_id.as_str());
    each("claims.claims", ".socket_id", ids, limits)
}

pub(crate) fn releases(releases: &Releases, limits: &Limits) -> Checked {
    count("releases.releases", releases.releases.len())?;
    let ids = releases.releases.iter().map(|release| release.socket_id.as_str());
    each("releases.releases", ".socket_id", ids, limits)
}

pub(crate) fn socket_ids(ids: &[String], limits: &Limits) -> Checked {
    count("socket_ids", ids.len())?;
    each("socket_ids", "", ids.iter().map(String::as_str), limits)
}

pub(crate) fn disconnect(socket_id: &str, reason: &str, limits: &Limits) -> Checked {
    Target::socket(socket_id, limits.id_bytes_max).map_err(|error| invalid("socket_id", error))?;
    if reason.len() > REASON_BYTES_MAX {
        return Err(invalid("reason", format!("is {} bytes long; at most {REASON_BYTES_MAX}", reason.len())));
    }
    Ok(())
}

fn each<'a>(field: &str, part: &str, ids: impl Iterator<Item = &'a str>, limits: &Limits) -> Checked {
    for (index, id) in ids.enumerate() {
        Target::socket(id, limits.id_bytes_max)
            .map_err(|error| invalid(&format!("{field}[{index}]{part}"), error))?;
    }
    Ok(())
}

fn count(field: &str, actual: usize) -> Checked {
    if actual > ITEMS_MAX {
        return Err(invalid(field, format!("holds {actual} items; at most {ITEMS_MAX}")));
    }
    Ok(())
}

fn text(field: &str, value: &str, max: usize) -> Checked {
    match value.len() {
        0 => Err(invalid(field, "must not be empty")),
        actual if actual > max => Err(invalid(field, format!("is {actual} bytes long; at most {max}"))),
        _ if value.bytes().any(|byte| byte.is_ascii_control()) => {
            Err(invalid(field, "must not hold control characters"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn invalid(field: &str, what: impl std::fmt::Display) -> Box<Status> {
    Box::new(Status::invalid_argument(format!("{field}: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use herald_wire::registry::{Claim, Pressure, Release};

    const LIMITS: Limits = Limits { id_bytes_max: 8, ..Limits::DEFAULT };

    fn claims_of(ids: &[&str]) -> Claims {
        Claims {
            claims: ids.iter().map(|id| Claim { socket_id: (*id).into(), ..Claim::default() }).collect(),
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        let hello_of = |edge: &str, address: &str| Hello { edge_id: edge.into(), address: address.into() };
        let full = Heartbeat {
            pressure: Some(Pressure { fullness_permille: 1_001, ..Pressure::default() }),
            ..Heartbeat::default()
        };
        let release = Release { socket_id: "123456789".into(), connection: 1 };
        let too_many = vec!["s".to_owned(); 1_001];
        for (checked, message) in [
            (hello(&hello_of("", "a")), "hello.edge_id: must not be empty"),
            (hello(&hello_of("e\n", "a")), "hello.edge_id: must not hold control characters"),
            (hello(&hello_of(&"e".repeat(257), "a")), "hello.edge_id: is 257 bytes long; at most 256"),
            (hello(&hello_of("e", "")), "hello.address: must not be empty"),
            (heartbeat(&full), "heartbeat.pressure.fullness_permille: is 1001; at most 1000"),
            (
                claims(&claims_of(&["a", ""]), &LIMITS),
                "claims.claims[1].socket_id: socketId must not be empty",
            ),
            (
                releases(&Releases { releases: vec![release] }, &LIMITS),
                "releases.releases[0].socket_id: socketId is 9 bytes long; at most 8 are allowed",
            ),
            (socket_ids(&too_many, &LIMITS), "socket_ids: holds 1001 items; at most 1000"),
            (disconnect("s", &"r".repeat(124), &LIMITS), "reason: is 124 bytes long; at most 123"),
            (disconnect("", "", &LIMITS), "socket_id: socketId must not be empty"),
        ] {
            let status = checked.unwrap_err();
            assert_eq!((status.code(), status.message()), (tonic::Code::InvalidArgument, message));
        }
        assert!(claims(&claims_of(&["s"; 1_000]), &LIMITS).is_ok());
        assert!(hello(&hello_of("e", "a")).is_ok());
    }
}
