//! The endpoint's configuration: flags over the configuration file over defaults.
//!
//! Driven by `cli`. Flags and keys are one struct, [`Settings`], read by the same functions. It must not know what the values are used for.

mod file;
mod value;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use value::{Advertised, duration};

/// The default of `--data-dir`.
pub const DATA_DIR: &str = "/var/lib/daemonlet-control";
/// The ports of `--listen` and `--nodes-listen`.
const PORT: u16 = 6443;
const NODES_PORT: u16 = 6444;

/// The configuration, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub nodes_listen: SocketAddr,
    pub store: StoreChoice,
    /// Names and addresses under which the endpoint is reached, beside those that the machine has.
    pub tls_names: Vec<String>,
    /// Where pods of every node find the API; None: where their node reaches the endpoint.
    pub api_advertise: Option<Advertised>,
}

/// Where objects are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreChoice {
    /// In a file of the data directory.
    Embedded,
    Etcd(EtcdPlace),
}

/// How etcd is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdPlace {
    pub endpoints: Vec<String>,
    pub authority: Option<PathBuf>,
    /// Certificate and key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// `--store`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreName {
    Embedded,
    Etcd,
}

/// Flags and configuration keys, as given: None or empty where not given.
#[derive(Debug, Clone, PartialEq, Eq, Default, clap::Args)]
pub struct Settings {
    /// The authority, the administrator's kubeconfig and the embedded store [default: /var/lib/daemonlet-control]
    #[arg(long, value_name = "D", value_parser = value::path)]
    pub data_dir: Option<PathBuf>,
    /// Where clients find the API, over TLS [default: :6443]
    #[arg(long, value_name = "ADDR", value_parser = value::listen)]
    pub listen: Option<SocketAddr>,
    /// Where nodes find the endpoint, over TLS [default: :6444]
    #[arg(long, value_name = "ADDR", value_parser = value::listen)]
    pub nodes_listen: Option<SocketAddr>,
    /// A further name or address under which the endpoint is reached, for its certificate; may be repeated [default: the
    /// machine's names and addresses]
    #[arg(long, value_name = "NAME", value_parser = value::tls_name)]
    pub tls_name: Vec<String>,
    /// Where pods find the API (KUBERNETES_SERVICE_HOST and _PORT), for an endpoint behind NAT or a load balancer; it is in the certificate
    /// [default: where their node reaches the endpoint, and the port of --listen]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = value::advertised)]
    pub api_advertise: Option<Advertised>,
    /// Where objects are kept: in a file of the data directory, or in etcd [default: embedded]
    #[arg(long, value_name = "STORE")]
    pub store: Option<StoreName>,
    /// etcd's client URLs, with commas between; only with --store etcd
    #[arg(long, value_name = "URLS", value_parser = value::urls)]
    pub etcd_endpoints: Option<value::Urls>,
    /// The authority of etcd's certificate, in PEM
    #[arg(long, value_name = "F", value_parser = value::path)]
    pub etcd_ca: Option<PathBuf>,
    /// Our certificate for etcd, in PEM
    #[arg(long, value_name = "F", value_parser = value::path)]
    pub etcd_cert: Option<PathBuf>,
    /// Its key, in PEM
    #[arg(long, value_name = "F", value_parser = value::path)]
    pub etcd_key: Option<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {path}: {why}", path = path.display())]
    Read { path: PathBuf, why: String },
    /// Each fault as `file:line: key: reason`, one a line.
    #[error("{}", faults.join("\n"))]
    Refused { faults: Vec<String> },
    #[error("{0}")]
    Unfit(String),
}

impl Config {
    /// Flags over the file over defaults. Blocking: reads the file.
    pub fn load(flags: Settings, file: Option<&Path>) -> Result<Config, ConfigError> {
        let from_file = file.map(file::read).transpose()?.unwrap_or_default();
        Config::resolve(flags.over(from_file))
    }

    /// What the certificate names beside what the machine has.
    pub fn own_names(&self) -> Vec<String> {
        let advertised = self.api_advertise.as_ref().map(|advertised| advertised.host.clone());
        self.tls_names.iter().cloned().chain(advertised).collect()
    }

    fn resolve(settings: Settings) -> Result<Config, ConfigError> {
        let Settings {
            data_dir,
            listen,
            nodes_listen,
            tls_name,
            api_advertise,
            store,
            etcd_endpoints,
            etcd_ca,
            etcd_cert,
            etcd_key,
        } = settings;
        let unfit = |why: &str| Err(ConfigError::Unfit(why.to_owned()));
        let is_etcd = store == Some(StoreName::Etcd);
        let store = match (is_etcd, etcd_endpoints) {
            (true, None) => return unfit("with --store etcd, --etcd-endpoints says where etcd is"),
            (true, Some(value::Urls(endpoints))) => {
                let identity = match (etcd_cert, etcd_key) {
                    (Some(certificate), Some(key)) => Some((certificate, key)),
                    (None, None) => None,
                    _ => return unfit("--etcd-cert and --etcd-key belong together: give both or none"),
                };
                StoreChoice::Etcd(EtcdPlace { endpoints, authority: etcd_ca, identity })
            }
            (false, None) if etcd_ca.is_none() && etcd_cert.is_none() && etcd_key.is_none() => StoreChoice::Embedded,
            (false, _) => return unfit("the flags --etcd-… need --store etcd"),
        };
        let listen = listen.unwrap_or(value::everywhere(PORT));
        let nodes_listen = nodes_listen.unwrap_or(value::everywhere(NODES_PORT));
        if listen == nodes_listen && listen.port() != 0 {
            return unfit("--listen and --nodes-listen are the same address: the API and the nodes need one each");
        }
        let data_dir = data_dir.unwrap_or_else(|| DATA_DIR.into());
        Ok(Config { data_dir, listen, nodes_listen, store, tls_names: tls_name, api_advertise })
    }
}

impl Settings {
    /// What these do not give, the others do.
    fn over(self, other: Settings) -> Settings {
        Settings {
            data_dir: self.data_dir.or(other.data_dir),
            listen: self.listen.or(other.listen),
            nodes_listen: self.nodes_listen.or(other.nodes_listen),
            tls_name: if self.tls_name.is_empty() { other.tls_name } else { self.tls_name },
            api_advertise: self.api_advertise.or(other.api_advertise),
            store: self.store.or(other.store),
            etcd_endpoints: self.etcd_endpoints.or(other.etcd_endpoints),
            etcd_ca: self.etcd_ca.or(other.etcd_ca),
            etcd_cert: self.etcd_cert.or(other.etcd_cert),
            etcd_key: self.etcd_key.or(other.etcd_key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.yaml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_defaults() {
        let (_dir, path) = written(
            "listen: 127.0.0.1:7000\nnodes-listen: :7001\ntls-name: [a.example, 192.0.2.1]\napi-advertise: lb.example:443\n",
        );
        let flags = Settings { listen: Some("[::1]:7443".parse().unwrap()), ..Settings::default() };
        let config = Config::load(flags, Some(&path)).unwrap();
        assert_eq!(config.listen, "[::1]:7443".parse().unwrap());
        assert_eq!(config.nodes_listen, "[::]:7001".parse().unwrap());
        assert_eq!(config.tls_names, ["a.example", "192.0.2.1"]);
        assert_eq!(config.api_advertise, Some(Advertised { host: "lb.example".into(), port: Some(443) }));
        assert_eq!((config.data_dir, config.store), (DATA_DIR.into(), StoreChoice::Embedded));
    }

    #[test]
    fn every_fault_of_the_file_is_named_with_its_line() {
        let (_dir, path) = written("listen: nowhere\n\nlisten: :1\nport: 6443\nstore: mysql\netcd-ca: [a, b]\n");
        let ConfigError::Refused { faults } = Config::load(Settings::default(), Some(&path)).unwrap_err() else {
            panic!("the faults are listed")
        };
        let at = |line: usize, key: &str| format!("{}:{line}: {key}: ", path.display());
        for (fault, begin) in
            faults.iter().zip([at(1, "listen"), at(3, "listen"), at(4, "port"), at(5, "store"), at(6, "etcd-ca")])
        {
            assert!(fault.starts_with(&begin), "{fault}");
        }
        assert_eq!(faults.len(), 5);
    }

    #[test]
    fn etcd_is_named_whole_or_not_at_all() {
        let etcd = |endpoints: Option<&str>, cert: Option<&str>| Settings {
            store: Some(StoreName::Etcd),
            etcd_endpoints: endpoints.map(|urls| value::urls(urls).unwrap()),
            etcd_cert: cert.map(PathBuf::from),
            ..Settings::default()
        };
        let why = |settings| Config::resolve(settings).unwrap_err().to_string();
        assert!(why(etcd(None, None)).contains("--etcd-endpoints"));
        assert!(why(etcd(Some("https://a:2379"), Some("/c"))).contains("--etcd-key"));
        let alone = Settings { etcd_ca: Some("/ca".into()), ..Settings::default() };
        assert!(why(alone).contains("--store etcd"));
        let StoreChoice::Etcd(place) =
            Config::resolve(etcd(Some("https://a:2379,https://b:2379"), None)).unwrap().store
        else {
            panic!("etcd was chosen")
        };
        assert_eq!(place.endpoints, ["https://a:2379", "https://b:2379"]);
    }
}
