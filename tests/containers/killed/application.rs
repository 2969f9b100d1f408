//! One application whose containers stop at fail points, with its store in a folder or in a bucket.

use std::sync::Arc;

use freeze::fail_points::Point;
use freeze::store::{self, Location, Store};
use serde_json::Value;

use super::Share;
use crate::harness::{App, Container, Setting, text};
use crate::s3::Remote;

/// Where the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Folder,
    Bucket,
}

pub enum Application {
    Folder(App),
    Bucket(Remote),
}

impl Application {
    /// One with these options for `freeze run` in each container.
    pub fn new(share: Share, options: &[&str]) -> Self {
        match share.place {
            Place::Folder => {
                let app = App::with_options(Setting::Restricted, options, &["/services/service", "big", "4"]);
                Self::Folder(if share.below_tracers { app.under_yama(1) } else { app.with_fail_points() })
            }
            Place::Bucket => Self::Bucket(Remote::new(options).with_fail_points()),
        }
    }

    pub fn start(&self, options: &[&str]) -> Container {
        self.start_stopping_at(None, options)
    }

    /// Its first worker stops at this point.
    pub fn start_stopping_at(&self, point: Option<Point>, options: &[&str]) -> Container {
        match self {
            Self::Folder(app) => app.start_stopping_at(point, options),
            Self::Bucket(remote) => remote.start_stopping_at(point, options),
        }
    }

    /// What freeze prints, outside of any container; it must succeed.
    pub fn freeze(&self, args: &[&str]) -> String {
        let (Self::Folder(app) | Self::Bucket(Remote { app, .. })) = self;
        let out = app.freeze(args);
        assert!(out.status.success(), "{args:?}: {}{}", text(&out.stdout), text(&out.stderr));
        text(&out.stdout)
    }

    /// All generations that are committed, the newest last, of a store in which all must be well.
    pub fn generations(&self) -> Vec<u64> {
        let rows = self.freeze(&["list", "--json"]);
        if !rows.is_empty() {
            self.freeze(&["verify"]);
        }
        let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.map(|row| row["generation"].as_u64().unwrap()).collect()
    }

    /// The store, from outside.
    pub fn store(&self) -> Arc<dyn Store> {
        store::open(&self.location()).unwrap()
    }

    pub fn location(&self) -> Location {
        match self {
            Self::Folder(app) => Location::at(&format!("file:{}", app.store().display())),
            Self::Bucket(remote) => remote.location.clone(),
        }
    }
}
