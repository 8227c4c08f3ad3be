//! Where a cluster is reached: the list that `--endpoints` and `ROSTER_ENDPOINTS` hold.
//!
//! `10.0.0.1:7400,10.0.0.2:7400`; a name without a port means 7400, a number alone is a port of the host before it,
//! so that `127.0.0.1:7400,7401,7402` are three nodes on one machine; IPv6 stands in brackets.

use std::{fmt, str::FromStr};

/// Where a cluster is looked for when nobody says where it is.
pub const DEFAULT_ENDPOINTS: &str = "127.0.0.1:7400,7401,7402";
/// The port that is meant when none is named.
const DEFAULT_PORT: u16 = 7400;
/// How many endpoints a list may hold: a cluster has few nodes, and each may have an old and a new address.
const ENDPOINTS_MAX: usize = 64;

/// Why a text is no list of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The list, or one place in it, is empty.
    #[error("an endpoint is empty; write host:port,host:port")]
    Empty,
    /// More than the list may hold.
    #[error("{0} endpoints; at most {ENDPOINTS_MAX} are allowed")]
    TooMany(usize),
    /// A port that is none.
    #[error("{0:?} has no port between 1 and 65535; write host:port")]
    Port(String),
    /// A number alone, with no host before it.
    #[error("{0:?} is a port without a host; begin the list with host:port")]
    PortAlone(String),
    /// IPv6 without brackets.
    #[error("{0:?} looks like an IPv6 address; write it in brackets: [::1]:7400")]
    Brackets(String),
    /// A character that no host has.
    #[error("{0:?} is no host; write a name, an IPv4 address or an IPv6 address in brackets")]
    Host(String),
    /// Another scheme than http.
    #[error("{0:?} asks for TLS or another protocol, which this version does not speak; write host:port")]
    Scheme(String),
}

/// One node's client address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// The host: a name or an IP, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    fn parse(text: &str, host_before: Option<&str>) -> Result<Self, EndpointError> {
        let bare = without_scheme(text)?;
        let alone = bare.strip_prefix(':').unwrap_or(bare);
        if !alone.is_empty() && alone.bytes().all(|b| b.is_ascii_digit()) {
            let host = host_before.ok_or_else(|| EndpointError::PortAlone(text.into()))?;
            return Ok(Self {
                host: host.into(),
                port: port(alone, text)?,
            });
        }
        if let Some(rest) = bare.strip_prefix('[') {
            let (host, tail) = rest
                .split_once(']')
                .ok_or_else(|| EndpointError::Brackets(text.into()))?;
            host.parse::<std::net::Ipv6Addr>()
                .map_err(|_| EndpointError::Host(text.into()))?;
            let port = match tail.strip_prefix(':') {
                Some(number) => port(number, text)?,
                None if tail.is_empty() => DEFAULT_PORT,
                None => return Err(EndpointError::Port(text.into())),
            };
            return Ok(Self {
                host: host.into(),
                port,
            });
        }
        let (host, port) = match bare.split_once(':') {
            Some((_, tail)) if tail.contains(':') => return Err(EndpointError::Brackets(text.into())),
            Some((host, number)) => (host, port(number, text)?),
            None => (bare, DEFAULT_PORT),
        };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if host.is_empty() || !host.bytes().all(allowed) {
            return Err(EndpointError::Host(text.into()));
        }
        Ok(Self {
            host: host.into(),
            port,
        })
    }
}

fn without_scheme(text: &str) -> Result<&str, EndpointError> {
    match text.split_once("://") {
        None => Ok(text),
        Some(("http", rest)) => Ok(rest.strip_suffix('/').unwrap_or(rest)),
        Some(_) => Err(EndpointError::Scheme(text.into())),
    }
}

fn port(number: &str, whole: &str) -> Result<u16, EndpointError> {
    number
        .parse::<u16>()
        .ok()
        .filter(|&port| port > 0)
        .ok_or_else(|| EndpointError::Port(whole.into()))
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        Self::parse(text, None)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A cluster's endpoints, in the order in which they are tried; at least one, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(Vec<Endpoint>);

impl Endpoints {
    /// In the order in which they are tried.
    #[must_use]
    pub fn as_slice(&self) -> &[Endpoint] {
        &self.0
    }

    /// The one that is tried first.
    #[must_use]
    pub fn first(&self) -> &Endpoint {
        self.0.first().expect("parsing refuses an empty list")
    }
}

impl From<Endpoint> for Endpoints {
    fn from(endpoint: Endpoint) -> Self {
        Self(vec![endpoint])
    }
}

impl FromStr for Endpoints {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        let count = text.split(',').count();
        if count > ENDPOINTS_MAX {
            return Err(EndpointError::TooMany(count));
        }
        for item in text.split(',') {
            let item = item.trim();
            if item.is_empty() {
                return Err(EndpointError::Empty);
            }
            let host_before = endpoints.last().map(Endpoint::host);
            let endpoint = Endpoint::parse(item, host_before)?;
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        Ok(Self(endpoints))
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, endpoint) in self.0.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            write!(f, "{comma}{endpoint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> Result<String, EndpointError> {
        text.parse::<Endpoints>().map(|endpoints| endpoints.to_string())
    }

    #[test]
    fn each_way_of_writing_an_endpoint_is_understood() {
        for (text, expected) in [
            ("127.0.0.1:7400", "127.0.0.1:7400"),
            (DEFAULT_ENDPOINTS, "127.0.0.1:7400,127.0.0.1:7401,127.0.0.1:7402"),
            ("n1:7400, n2:7400 ,n3", "n1:7400,n2:7400,n3:7400"),
            ("n1:1,:2,n3:3", "n1:1,n1:2,n3:3"),
            ("[::1]:7400,7401", "[::1]:7400,[::1]:7401"),
            ("[fe80::1]", "[fe80::1]:7400"),
            ("http://n1:7400/", "n1:7400"),
            ("n1:7400,n1:7400", "n1:7400"),
        ] {
            assert_eq!(printed(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn each_mistake_is_named() {
        use EndpointError as E;
        for (text, expected) in [
            ("", E::Empty),
            ("n1:7400,", E::Empty),
            ("7400", E::PortAlone("7400".into())),
            ("n1:0", E::Port("n1:0".into())),
            ("n1:65536", E::Port("n1:65536".into())),
            ("n1:http", E::Port("n1:http".into())),
            ("::1", E::Brackets("::1".into())),
            ("[::1", E::Brackets("[::1".into())),
            ("[n1]:7400", E::Host("[n1]:7400".into())),
            ("n 1:7400", E::Host("n 1:7400".into())),
            ("https://n1:7400", E::Scheme("https://n1:7400".into())),
        ] {
            assert_eq!(printed(text), Err(expected), "{text}");
        }
        assert!(matches!(printed(&"n1:1,".repeat(70)), Err(E::TooMany(71))));
    }
}
