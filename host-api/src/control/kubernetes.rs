//! Services that are deployments on Kubernetes.
//!
//! A deployment does not count pods that are ending, which still work: stopped is only what has no pod left.

use super::command::{answer, answers, start, stop, with};
use super::{Manager, State};
use crate::bindings::{Install, KubernetesControl};
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::identifier::shown;

/// A deployment.
pub(super) struct Deployment {
    pub(super) control: KubernetesControl,
    pub(super) install: Option<Install>,
}

impl Deployment {
    fn words(&self, own: &[&str]) -> Vec<String> {
        let control = &self.control;
        let mut command = control.kubectl.clone();
        let kubeconfig = control.kubeconfig.as_ref().map(|path| path.display().to_string());
        let options = [("--kubeconfig", &kubeconfig), ("--context", &control.context)];
        command.extend(options.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?))));
        command.push(format!("--namespace={}", control.namespace));
        with(&command, own)
    }

    fn name(&self) -> String {
        format!("deployment/{}", self.control.deployment)
    }

    fn scale(&self, replicas: u32) -> Vec<String> {
        self.words(&["scale", &self.name(), &format!("--replicas={replicas}")])
    }
}

impl Manager for Deployment {
    fn state(&self, cx: &StepContext) -> Result<State> {
        let said = match answer(cx, &self.words(&["get", &self.name(), "--output=jsonpath={.spec.replicas}"]))? {
            Ok(said) => said,
            Err(unknown) => return Ok(unknown),
        };
        let Ok(replicas) = said.trim().parse::<u32>() else {
            return Ok(State::Unknown(format!("{} is scaled to `{}`", self.name(), shown(said.trim()))));
        };
        let selector = format!("--selector={}", self.control.selector);
        let said = match answer(cx, &self.words(&["get", "pods", &selector, "--output=name"]))? {
            Ok(said) => said,
            Err(unknown) => return Ok(unknown),
        };
        let pods = said.lines().filter(|line| !line.trim().is_empty()).count();
        Ok(match (replicas, pods) {
            (0, 0) => State::Stopped { ended: None },
            (0, pods) => State::Unknown(format!("it is scaled to none, and pods are left: {pods}")),
            (replicas, 0) => State::Unknown(format!("it is scaled to {replicas}, and has no pod yet")),
            _ => State::Running,
        })
    }

    fn answers(&self, cx: &StepContext) -> Result<()> {
        answers(cx, &self.words(&["get", &self.name(), "--output=jsonpath={.spec.replicas}"]))
    }

    fn start(&self, cx: &StepContext) -> Result<()> {
        if let (Some(container), Some(image)) = (&self.control.container, &self.control.image) {
            let (version, _) = self.install.as_ref().and_then(crate::versions::current).ok_or_else(|| {
                Error::conflict("no version is installed, so it is not known which image to run")
                    .hint("install one: its version is the image's tag")
            })?;
            // Each time, and while it has no pods: the link to the installed version decides, whatever was set by others.
            start(cx, &self.words(&["set", "image", &self.name(), &format!("{container}={image}:{version}")]))?;
        }
        start(cx, &self.scale(self.control.replicas))
    }

    fn stop(&self, cx: &StepContext) -> Result<()> {
        stop(cx, &self.scale(0))
    }
}
