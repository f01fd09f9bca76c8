//! The page: three files in one, with the policy that lets nothing else run.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};

use crate::text;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
/// What is there only where somebody may act.
const CONTROL: &str = include_str!("page/control.html");

/// Returns the page.
pub(crate) fn page(title: &str, with_control: bool) -> String {
    let title = text::escaped(&text::shown(title, text::NAME));
    PAGE.replace("{{style}}", STYLE)
        .replace("{{script}}", SCRIPT)
        .replace("{{control}}", if with_control { CONTROL } else { "" })
        // Last, so that nothing in it is taken for a place to fill.
        .replace("{{title}}", &title)
}

/// Returns the policy for the page: its own style and script, by their digests, and its own origin.
pub(crate) fn policy() -> String {
    let digest = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        digest(STYLE),
        digest(SCRIPT),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = page("agents", true);
        assert!(!page.contains("{{"), "a place was left unfilled");
        for forbidden in ["src=\"", "href=\"http", "@import", "url(http", " style=\"", " onclick="]
        {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn what_the_policy_allows_is_what_stands_in_the_page() {
        let (page, policy) = (page("agents", true), policy());
        for element in ["style", "script"] {
            let start = page.find(&format!("<{element}>")).unwrap() + element.len() + 2;
            let end = page.find(&format!("</{element}>")).unwrap();
            let digest = BASE64_STANDARD.encode(Sha256::digest(&page[start..end]));
            assert!(policy.contains(&format!("{element}-src 'sha256-{digest}'")), "{element}");
            // There is one of each, and the policy speaks of that one.
            assert_eq!(page.matches(&format!("<{element}")).count(), 1, "{element}");
        }
    }

    #[test]
    fn a_title_is_text_and_cannot_fill_a_place() {
        let page = page("<script>alert(1)</script>{{control}}", false);
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;{{control}}"));
        assert_eq!(page.matches("<script>").count(), 1);
    }

    #[test]
    fn without_control_the_page_has_nothing_to_act_with() {
        assert!(!page("agents", false).contains("id=\"control\""));
        assert!(page("agents", true).contains("id=\"control\""));
    }
}
