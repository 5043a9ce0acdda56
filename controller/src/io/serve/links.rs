//! Which broker, and TLS: what a start opens towards the network, besides HTTP.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::broker::{Broker, BrokerConfig, Credentials};
use super::super::clock;
use super::super::control::Inner;
use super::super::control::admission::write_revoked;
use super::super::mqtt::MqttConfig;
use super::super::tls::authority::KeyedCertificate;
use super::super::tls::{self, Tls, TlsError};
use super::home::Home;
use super::{ServeConfig, ServeError};

/// Which broker.
#[derive(Debug, Clone)]
pub enum BrokerChoice {
    /// Our own.
    Embedded {
        /// Where to listen; port 0 picks a free one.
        listen: SocketAddr,
    },
    /// Another one.
    External {
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
        /// The controller's user name there; client id too.
        user: String,
        /// The controller's secret there; empty where it signs in by certificate.
        secret: String,
        /// For TLS.
        tls: Option<BrokerTls>,
    },
}

/// How to reach a broker outside by TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerTls {
    /// Whom to trust, PEM; the device authority if absent.
    pub ca: Option<PathBuf>,
    /// The controller's certificate and key there, PEM; made by the device authority if absent.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Turn TLS on, if it is asked for: with every name of this machine that the settings give away.
pub(super) fn secure(config: &ServeConfig, home: &Home) -> Result<Option<Arc<Tls>>, ServeError> {
    let Some(settings) = config.tls.clone() else { return Ok(None) };
    let mut names: Vec<String> = config.public_http.as_deref().and_then(tls::name_in).into_iter().collect();
    names.extend(config.public_mqtt.iter().map(|(host, _)| host.clone()));
    names.extend(tls::name_of(config.http.ip()));
    if let BrokerChoice::Embedded { listen } = &config.broker {
        names.extend(tls::name_of(listen.ip()));
    }
    Ok(Some(Arc::new(Tls::open(home.keys(), &config.tenant, settings, names)?)))
}

/// The list of revoked certificates for brokers outside, below the data directory.
pub const REVOKED_FILE: &str = "revoked.pem";

/// Write that list anew each day: it has an end, so that nobody withholds it for ever.
pub(super) async fn list_revoked(inner: Arc<Inner>) {
    const EVERY: Duration = Duration::from_secs(24 * 3600);
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = write_revoked(&inner) {
            tracing::error!("the list of revoked certificates was not written: {error}");
        }
    }
}

pub(super) async fn broker(
    config: &ServeConfig,
    tls: Option<&Tls>,
    credentials: &Arc<Credentials>,
    mqtt_secret: &str,
) -> Result<(Option<Broker>, MqttConfig), ServeError> {
    let tenant = config.tenant.clone();
    match &config.broker {
        BrokerChoice::External { host, port, user, secret, tls: how } => {
            let secured = how.as_ref().map(|how| broker_client(how, tls, user)).transpose()?;
            let (host, user, secret) = (host.clone(), user.clone(), secret.clone());
            Ok((None, MqttConfig { host, port: *port, user, secret, tls: secured, tenant }))
        }
        BrokerChoice::Embedded { listen } => {
            let inside = SocketAddr::from(([127, 0, 0, 1], 0));
            let broker = match tls {
                None => BrokerConfig::plain(*listen, tenant.clone(), Arc::clone(credentials)),
                Some(tls) => BrokerConfig {
                    plain: tls.settings().plain_mqtt.is_some(),
                    tls: Some((*listen, tls.mqtt())),
                    ..BrokerConfig::plain(tls.settings().plain_mqtt.unwrap_or(inside), tenant.clone(), Arc::clone(credentials))
                },
            };
            let broker = Broker::start(broker).await?;
            let client = MqttConfig::controller(&reachable(broker.addr()).ip().to_string(), broker.addr().port(), mqtt_secret, &tenant);
            Ok((Some(broker), client))
        }
    }
}

/// The controller's side of TLS to a broker outside: files that were brought, or what the device authority makes.
fn broker_client(how: &BrokerTls, own: Option<&Tls>, user: &str) -> Result<Arc<rustls::ClientConfig>, ServeError> {
    /// As long as no program runs without a restart.
    const LIFE_SECS: i64 = 5 * 365 * 86_400;
    let ca = match (&how.ca, own) {
        (Some(path), _) => tls::text(path)?,
        (None, Some(own)) => own.trusted().to_owned(),
        (None, None) => String::new(),
    };
    let identity = match (&how.identity, own) {
        (Some((chain, key)), _) => Some(KeyedCertificate { chain: tls::text(chain)?, key: tls::text(key)? }),
        (None, Some(own)) => Some(own.authority().client(user, clock::now(), LIFE_SECS).map_err(TlsError::from)?),
        (None, None) => None,
    };
    Ok(Arc::new(tls::client(&ca, identity.as_ref())?))
}

/// An address that can be connected to, of one that is listened on.
pub(in crate::io) fn reachable(addr: SocketAddr) -> SocketAddr {
    let mut addr = addr;
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr {
            SocketAddr::V4(_) => [127, 0, 0, 1].into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    addr
}
