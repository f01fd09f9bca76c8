use std::{ffi::OsStr, fmt::Write as _, fs, path::PathBuf};

use crate::process::{Server, find, on_free_port, run};

/// A Postgres of its own, with `fsync` on.
///
/// Over TCP it asks for a password, by SCRAM; over the socket in its folder it does not.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    port: u16,
}

// ===== impl Postgres =====

impl Postgres {
    /// The user, who may do everything.
    pub const USER: &str = "buttress";

    /// The user's password; odd enough to be found wherever it does not belong.
    pub const PASSWORD: &str = "hunter2-of-the-tests";

    /// Creates a cluster and starts its server.
    ///
    /// # Panics
    ///
    /// If Postgres is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Creates a cluster whose configuration has these lines too, and starts its server.
    ///
    /// # Panics
    ///
    /// If Postgres is not installed or does not start.
    #[must_use]
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        on_free_port("postgres", |port| {
            let postgres = Self { server: Server::new("postgres"), port };
            postgres.init(settings);
            if postgres.launch() { Ok(postgres) } else { Err(postgres.server.log()) }
        })
    }

    /// Creates a cluster that also speaks TLS, for `localhost` and 127.0.0.1, and starts its server.
    ///
    /// # Panics
    ///
    /// If Postgres or openssl is not installed, or the server does not start.
    #[must_use]
    pub fn start_with_tls() -> Self {
        on_free_port("postgres", |port| {
            let postgres = Self { server: Server::new("postgres"), port };
            postgres.certify();
            let file = |name: &str| postgres.server.folder().join(name).display().to_string();
            let (certificate, key) = (file("server.crt"), file("server.key"));
            let settings = [
                ("ssl", "on"),
                ("ssl_cert_file", certificate.as_str()),
                ("ssl_key_file", key.as_str()),
            ];
            postgres.init(&settings);
            if postgres.launch() { Ok(postgres) } else { Err(postgres.server.log()) }
        })
    }

    /// Writes a certificate that signs itself, for a day.
    fn certify(&self) {
        let settings = self.server.write(
            "openssl.cnf",
            "[req]\ndistinguished_name = name\nx509_extensions = extensions\nprompt = no\n\
             [name]\nCN = localhost\n[extensions]\nbasicConstraints = critical, CA:FALSE\n\
             subjectAltName = DNS:localhost, IP:127.0.0.1\n",
        );
        let folder = self.server.folder();
        let (certificate, key) = (folder.join("server.crt"), folder.join("server.key"));
        let words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"];
        let words = words.map(OsStr::new).into_iter().chain([
            OsStr::new("-config"),
            settings.as_os_str(),
            OsStr::new("-out"),
            certificate.as_os_str(),
            OsStr::new("-keyout"),
            key.as_os_str(),
        ]);
        run(&find("openssl"), &words.collect::<Vec<_>>()).expect("openssl makes a certificate");
    }

    /// Returns the certificate of one that was started with TLS, as PEM.
    ///
    /// # Panics
    ///
    /// If it was not.
    #[must_use]
    pub fn certificate(&self) -> String {
        let file = self.server.folder().join("server.crt");
        fs::read_to_string(file).expect("it was started with TLS")
    }

    fn init(&self, settings: &[(&str, &str)]) {
        let password = self.server.write("password", Self::PASSWORD);
        let data = self.data();
        let arguments = [
            OsStr::new("--pgdata"),
            data.as_os_str(),
            OsStr::new("--pwfile"),
            password.as_os_str(),
            OsStr::new("--username"),
            OsStr::new(Self::USER),
            OsStr::new("--auth-local=trust"),
            OsStr::new("--auth-host=scram-sha-256"),
            OsStr::new("--encoding=UTF8"),
            OsStr::new("--locale=C"),
            // The new cluster only: the server itself syncs.
            OsStr::new("--no-sync"),
        ];
        run(&find("initdb"), &arguments).expect("initdb creates a cluster");
        let mut lines = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             fsync = on\nfull_page_writes = on\nshared_buffers = '32MB'\nmax_connections = 100\n\
             max_wal_size = '128MB'\nmin_wal_size = '32MB'\ntimezone = 'UTC'\n",
            self.port,
            self.server.folder().display(),
        );
        for (name, value) in settings {
            writeln!(lines, "{name} = '{value}'").expect("a string takes all");
        }
        let file = data.join("postgresql.conf");
        let defaults = fs::read_to_string(&file).expect("initdb writes a configuration");
        fs::write(&file, defaults + &lines).expect("the configuration");
    }

    fn launch(&self) -> bool {
        let data = self.data();
        // The server is of the version that made the cluster.
        let initdb = find("initdb");
        let program = initdb.canonicalize().unwrap_or(initdb).with_file_name("postgres");
        self.server.start(&program, &[OsStr::new("-D"), data.as_os_str()], || {
            self.psql("postgres", "select 1").is_ok()
        })
    }

    fn data(&self) -> PathBuf {
        self.server.folder().join("data")
    }

    /// Returns the address of the first database, with user and password.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Returns the address of a database, with user and password.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        let (user, password, port) = (Self::USER, Self::PASSWORD, self.port);
        format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}")
    }

    /// Returns the port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the folder that the socket is in.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.server.folder().to_owned()
    }

    /// Creates a database and returns its address.
    ///
    /// # Panics
    ///
    /// If there is one of that name.
    #[must_use]
    pub fn create_database(&self, name: &str) -> String {
        self.sql(&format!("create database \"{name}\""));
        self.url_of(name)
    }

    /// Runs SQL in the first database and returns the rows, unaligned, without a heading.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    /// Runs SQL in a database and returns the rows.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn sql_in(&self, database: &str, sql: &str) -> String {
        self.psql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let port = self.port.to_string();
        let folder = self.server.folder();
        let arguments = ["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", Self::USER, "-p", &port];
        let arguments = arguments.map(OsStr::new).into_iter().chain([
            OsStr::new("-h"),
            folder.as_os_str(),
            OsStr::new("-d"),
            OsStr::new(database),
            OsStr::new("-c"),
            OsStr::new(sql),
        ]);
        run(&find("psql"), &arguments.collect::<Vec<_>>())
    }

    /// Stops the server in order, which ends every connection, and starts it again.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&self) {
        self.stop();
        self.start_again();
    }

    /// Stops the server in order.
    pub fn stop(&self) {
        self.server.stop("INT");
    }

    /// Kills the server, as a crash does: the next start recovers.
    pub fn kill(&self) {
        self.server.stop("KILL");
    }

    /// Starts a server that was stopped or killed, on the same data and port.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_again(&self) {
        // The children of one that was killed take a moment to see it, and keep its memory so long.
        let started = (0..50).any(|_| self.launch());
        assert!(started, "postgres does not start again:\n{}", self.server.log());
    }

    /// Returns what the server has said.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.log()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, but so that it gives back the memory that it shares.
        self.server.stop("QUIT");
    }
}
