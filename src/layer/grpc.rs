//! The deadline that a gRPC client sends along.

use std::time::Duration;

use http::Request;

use crate::pool::JobOptions;

/// Returns the options of a gRPC call: its `grpc-timeout` as the deadline, and a call that runs is
/// cancelled then. A request without that header, or with one that is no timeout, has no deadline.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use millpond::Pool;
/// use millpond::layer::{PoolLayer, grpc_options};
///
/// let pool = Pool::new(64);
/// let layer = PoolLayer::schedule_within(&pool, Duration::from_secs(1))
///     .options(|request: &http::Request<String>| grpc_options(request));
/// # drop(layer);
/// ```
pub fn grpc_options<B>(request: &Request<B>) -> JobOptions {
    let header = request.headers().get("grpc-timeout").and_then(|value| value.to_str().ok());
    match header.and_then(parse) {
        Some(limit) => JobOptions::new().timeout(limit).expire_running(true),
        None => JobOptions::new(),
    }
}

/// Parses a timeout of the gRPC protocol: one to eight digits and a unit.
fn parse(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    let well_formed = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let amount: u64 = if well_formed { digits.parse().ok()? } else { return None };
    Some(match unit {
        "H" => Duration::from_secs(amount * 3_600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_the_protocol_are_read_and_others_are_not() {
        assert_eq!(parse("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse("2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for wrong in ["", "m", "100", "100x", "123456789m", "-1m", "1 m", "1é"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
