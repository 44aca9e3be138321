//! When a signing request has been there long enough.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{conditions, is_issued};

/// Answered ones stay this long after their answer.
const ANSWERED: Duration = Duration::from_secs(3600);
/// Ones that nobody answers, or signs, stay this long.
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// When a request is deleted; `None` if it stays. `expires` says when a
/// certificate ends.
pub(super) fn due(
    request: &CertificateSigningRequest,
    expires: impl Fn(&[u8]) -> Option<Timestamp>,
) -> Option<Timestamp> {
    let after = |time: &Option<Time>, stay: Duration| {
        time.as_ref().and_then(|time| time.0.checked_add(stay).ok())
    };
    let mut found: Option<Timestamp> = None;
    let mut consider = |at: Option<Timestamp>| {
        if let Some(at) = at {
            found = Some(found.map_or(at, |found| found.min(at)));
        }
    };
    if conditions(request).next().is_none() {
        consider(after(&request.metadata.creation_timestamp, PENDING));
    }
    for condition in conditions(request) {
        let time = &condition.last_update_time;
        match condition.type_.as_str() {
            "Denied" | "Failed" => consider(after(time, ANSWERED)),
            "Approved" if is_issued(request) => {
                consider(after(time, ANSWERED));
                let status = request.status.as_ref();
                let certificate = status.and_then(|status| status.certificate.as_ref());
                consider(certificate.and_then(|certificate| expires(&certificate.0)));
            }
            "Approved" => consider(after(time, PENDING)),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn requests_go_when_they_are_old() {
        let hours = |hours: i64| Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(hours);
        let request = |kind: Option<&str>, certificate: bool| {
            let mut request = CertificateSigningRequest::default();
            request.metadata.creation_timestamp = Some(Time(hours(0)));
            if let Some(kind) = kind {
                super::super::add(&mut request, kind, "", "");
                let status = request.status.get_or_insert_default();
                for condition in status.conditions.iter_mut().flatten() {
                    condition.last_update_time = Some(Time(hours(10)));
                }
                if certificate {
                    status.certificate = Some(ByteString(b"c".to_vec()));
                }
            }
            request
        };
        for (kind, certificate, expected) in [
            (None, false, 24),
            (Some("Approved"), false, 34),
            (Some("Approved"), true, 11),
            (Some("Denied"), false, 11),
            (Some("Failed"), false, 11),
        ] {
            let at = due(&request(kind, certificate), |_| Some(hours(12)));
            assert_eq!(at, Some(hours(expected)), "{kind:?}");
        }
        let at = due(&request(Some("Approved"), true), |_| Some(hours(5)));
        assert_eq!(at, Some(hours(5)));
    }
}
