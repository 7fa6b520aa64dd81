//! Checks of what must not be taken: unsigned, stale, broken and oversized requests.

use serde_json::json;

use super::super::messages::State;
use super::super::wire::{Endpoint, Request, Signing};
use super::session::Session;
use super::{Stop, Verdict};

/// An hour: far beyond any tolerance for clocks.
const HOUR_S: i64 = 3_600;
/// The largest body that is sent to find out whether it is refused.
const BODY_BYTES_MAX: usize = 64 << 20;

pub(super) async fn unsigned(s: &Session) -> Verdict {
    signed_otherwise(s, Signing::None).await
}

pub(super) async fn wrong_signature(s: &Session) -> Verdict {
    signed_otherwise(s, Signing::Wrong).await?;
    // A signature is of one request and of no other: neither path nor body may change.
    let gid = s.gid(s.own);
    s.prepared(gid, &s.sample.give).await?;
    Ok(s.abort(gid, State::Aborted).await?)
}

pub(super) async fn wrong_time(s: &Session) -> Verdict {
    signed_otherwise(s, Signing::Later(-HOUR_S)).await?;
    signed_otherwise(s, Signing::Later(HOUR_S)).await
}

/// Reads and changes alike are refused, and nothing was done.
async fn signed_otherwise(s: &Session, signing: Signing) -> Verdict {
    if !s.wire.signs() {
        return Err(Stop::Skipped("no secret was given".to_owned()));
    }
    let gid = s.gid(s.own);
    let requests = [
        Request::service(),
        Request::list(None, 10),
        s.work_request(Endpoint::Prepare, s.own, gid, &[&s.sample.give]),
        s.verdict_request(Endpoint::Abort, s.own, gid),
    ];
    for request in requests {
        s.refused(Request { signing, ..request }, 401, None).await?;
    }
    if s.is_listed(gid).await? {
        return Err("a refused prepare has prepared".to_owned().into());
    }
    Ok(())
}

pub(super) async fn malformed(s: &Session) -> Verdict {
    let gid = s.gid(s.own);
    let good = s.work_request(Endpoint::Prepare, s.own, gid, &[&s.sample.give]);
    let with = |body: &str| Request { body: body.as_bytes().to_vec(), ..good.clone() };
    let at = |path: &str| Request { path: path.to_owned(), ..good.clone() };
    let identity = &s.service.identity;
    let negative = json!({"service": identity, "epoch": -1, "operations": []}).to_string();
    let untyped = json!({"service": identity, "epoch": 1, "operations": [7]}).to_string();
    let broken = [
        with(""),
        with("{"),
        with("[]"),
        with("{\"service\": 1}"),
        with(&negative),
        with(&untyped),
        Request { body: vec![b'"', 0xff, b'"'], ..good.clone() },
        at("/v1/branches/not-a-gid/prepare"),
        at(&format!("/v1/branches/{gid}0/prepare")),
        Request { key: None, ..good.clone() },
        Request { key: Some("another".to_owned()), ..good.clone() },
    ];
    for request in broken {
        s.refused(request, 400, None).await?;
    }
    if s.is_listed(gid).await? {
        return Err("a refused prepare has prepared".to_owned().into());
    }
    Ok(())
}

pub(super) async fn too_large(s: &Session) -> Verdict {
    let limit = s.service.body_bytes_max;
    if limit > BODY_BYTES_MAX {
        return Err(format!("body_bytes_max is {limit}, which is no limit").into());
    }
    let gid = s.gid(s.own);
    let mut request = s.work_request(Endpoint::Prepare, s.own, gid, &[&s.sample.give]);
    // Space after a value is part of JSON: only the size is wrong.
    request.body.resize(limit + 1, b' ');
    s.refused(request, 413, None).await?;
    if s.is_listed(gid).await? {
        return Err("a refused prepare has prepared".to_owned().into());
    }
    Ok(())
}
