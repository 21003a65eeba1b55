//! Signing out, asked for by applications: OpenID Connect RP-Initiated Logout 1.0 and Front-Channel Logout 1.0.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use serde_json::json;
use support::{App, Browser, HTTP, Page, World, claims, post, wait_for, word, world};

const BYE: &str = "https://web.example/bye";

fn logout(w: &World, parameters: &[(&str, &str)]) -> String {
    w.server.url(&format!("/logout?{}", support::form(parameters)))
}

fn is_signed_in(w: &World, browser: &Browser) -> bool {
    browser.open(w.web.request().with("prompt", "none").url()).callback().contains_key("code")
}

/// An application with a page to come back to and, where wanted, one that signs out in a frame.
fn application(w: &World, name: &str, frame: bool) -> App {
    let origin = format!("https://{name}.example");
    let mut metadata = json!({
        "client_name": name, "redirect_uris": [format!("{origin}/cb")], "skip_consent": true,
        "post_logout_redirect_uris": [format!("{origin}/bye"), format!("{origin}/bye?from=idp")],
    });
    if frame {
        metadata["frontchannel_logout_uri"] = json!(format!("{origin}/out?a=1&b=2"));
    }
    w.server.client(&metadata)
}

#[test]
fn a_hint_of_this_session_signs_out_at_once_by_get_and_by_post() {
    let w = world();
    for by_post in [false, true] {
        let browser = w.browser();
        let tokens = w.web.tokens(&browser, "openid");
        let parameters = [
            ("id_token_hint", tokens.id()),
            ("client_id", &w.web.id),
            ("logout_hint", "ADA"),
            ("post_logout_redirect_uri", BYE),
            ("state", "s & t"),
            ("ui_locales", "de en"),
        ];
        let page = if by_post {
            let url = w.server.url("/logout");
            let answer = browser.send(post(&url, &parameters).header("sec-fetch-site", "same-site"));
            browser.follow(url.parse().unwrap(), answer)
        } else {
            browser.open(logout(&w, &parameters))
        };
        assert!(page.foreign && page.url.as_str().starts_with("https://web.example/bye?"), "{page:?}");
        assert_eq!(page.callback()["state"], "s & t");
        assert_eq!(page.answer.status, 303);
        assert!(!is_signed_in(&w, &browser) && !browser.cookies().contains_key("cs_session"));
        w.web.refresh(tokens.refresh()).refused(400, "invalid_grant");
        assert!(!w.web.is_active(tokens.access()));
    }
}

#[test]
fn a_post_of_another_site_comes_back_as_a_get_with_our_cookies() {
    let w = world();
    let browser = w.browser();
    let tokens = w.web.tokens(&browser, "openid");
    let parameters = [("id_token_hint", tokens.id()), ("post_logout_redirect_uri", BYE)];
    // SameSite keeps our cookies from it.
    let answer = support::send(post(w.server.url("/logout"), &parameters).header("sec-fetch-site", "cross-site"));
    assert_eq!(answer.status, 303, "{answer:?}");
    let page = browser.open(w.server.url(answer.header("location")));
    assert_eq!(page.url.as_str(), BYE);
    assert!(!is_signed_in(&w, &browser));
}

#[test]
fn s16_nothing_signs_out_without_asking_but_a_hint_of_this_session() {
    let w = world();
    w.server.user("grace");
    let browser = w.browser();
    let tokens = w.web.tokens(&browser, "openid");
    let other_session = w.web.tokens(&w.browser(), "openid");
    let other_person = w.browser();
    let other_person = w.web.redeem(&other_person.through_as(w.web.request().url(), "grace").code()).ok();
    let other_person = other_person["id_token"].as_str().unwrap();
    let tampered = support::jose::tampered(tokens.id(), |claims| claims["exp"] = json!(9_999_999_999_u64));
    let unsigned = support::jose::unsigned(tokens.id());
    let web = w.web.id.as_str();
    for parameters in [
        &[][..],
        &[("client_id", web)],
        &[("logout_hint", "ada")],
        &[("client_id", web), ("post_logout_redirect_uri", BYE), ("state", "x")],
        &[("id_token_hint", other_session.id())],
        &[("id_token_hint", other_session.id()), ("post_logout_redirect_uri", BYE)],
        &[("id_token_hint", other_person)],
        &[("id_token_hint", tokens.id()), ("logout_hint", "grace")],
        &[("client_id", web), ("id_token_hint", tokens.access())],
        &[("client_id", web), ("id_token_hint", &tampered)],
        &[("client_id", web), ("id_token_hint", &unsigned)],
        &[("client_id", web), ("id_token_hint", "garbage"), ("post_logout_redirect_uri", BYE)],
    ] {
        let page = browser.open(logout(&w, parameters));
        page.is("logout-page").form_of("logout-confirm");
        let url = w.server.url("/logout");
        let answer = browser.send(post(&url, parameters).header("sec-fetch-site", "same-site"));
        browser.follow(url.parse().unwrap(), answer).is("logout-page");
        assert!(is_signed_in(&w, &browser), "{parameters:?}");
    }
    for hint in [tokens.access(), &tampered, &unsigned, "garbage"] {
        browser.open(logout(&w, &[("id_token_hint", hint)])).is_error_page();
    }
    let page = browser.open(logout(&w, &[("id_token_hint", other_person)]));
    assert!(page.answer.body.contains("may mean another account"), "{page:?}");
    let page = browser.open(logout(&w, &[("client_id", web)]));
    assert!(!page.answer.body.contains("may mean another account"), "{page:?}");
    assert!(is_signed_in(&w, &browser));
}

#[test]
fn s15_another_site_confirms_no_sign_out() {
    let w = world();
    let browser = w.browser();
    w.web.tokens(&browser, "openid");
    let form = browser.open(logout(&w, &[])).form_of("logout-confirm");
    let url = w.server.url("/logout/confirm");
    let own = w.server.issuer.as_str();
    let stranger = w.browser();
    w.web.tokens(&stranger, "openid");
    let foreign = stranger.open(logout(&w, &[])).form_of("logout-confirm").value("csrf").unwrap().to_owned();
    for (csrf, headers) in [
        (form.value("csrf"), &[("origin", "https://evil.example")][..]),
        (form.value("csrf"), &[("sec-fetch-site", "cross-site"), ("origin", own)]),
        (form.value("csrf"), &[("sec-fetch-site", "same-site")]),
        (None, &[("origin", own), ("sec-fetch-site", "same-origin")]),
        (Some("x"), &[("origin", own), ("sec-fetch-site", "same-origin")]),
        (Some(foreign.as_str()), &[("origin", own), ("sec-fetch-site", "same-origin")]),
    ] {
        let mut fields = vec![("decision", "logout")];
        fields.extend(csrf.map(|csrf| ("csrf", csrf)));
        for path in [url.as_str(), &w.server.url("/sign-out")] {
            let mut request = post(path, &fields);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            assert_eq!(browser.send(request).status, 403, "{headers:?}");
            assert!(is_signed_in(&w, &browser), "{headers:?}");
        }
    }
    // And a GET on the form's address does nothing at all.
    browser.open(&url).is("home-page");
    // A page that showed one person signs out no other.
    let page = browser.open(logout(&w, &[]));
    w.server.user("mary");
    let other = browser.open(w.web.request().with("prompt", "select_account").url());
    let other = browser.press(&other, "account-other", &[]);
    browser.sign_in_as(&other, "mary", support::PASSWORD).code();
    assert_eq!(browser.press(&page, "logout-confirm", &[]).answer.status, 403);
    assert!(is_signed_in(&w, &browser));
}

#[test]
fn s4_no_shape_of_a_foreign_address_is_ever_redirected_to() {
    let w = world();
    let browser = w.browser();
    let tokens = w.web.tokens(&browser, "openid");
    let other = application(&w, &word(), false);
    let foreign = other.registration["post_logout_redirect_uris"][0].as_str().unwrap().to_owned();
    let long = format!("{BYE}{}", "a".repeat(5000));
    for wrong in [
        "https://evil.example/",
        "//evil.example/",
        "///evil.example/",
        "/\\evil.example/",
        "\\\\evil.example",
        "https:evil.example",
        "https:/evil.example",
        "/",
        "/bye",
        "bye",
        "",
        "https://web.example",
        "https://web.example/",
        "https://web.example/bye/",
        "https://web.example/bye?",
        "https://web.example/bye?x=1",
        "https://web.example/bye#",
        "https://web.example/bye#@evil.example",
        "https://web.example/bye/../evil",
        "https://web.example/bye%2e",
        "https://web.example/%62ye",
        "https://web.example/BYE",
        "https://WEB.example/bye",
        "HTTPS://web.example/bye",
        "https://web.example:443/bye",
        "https://web.example:444/bye",
        "https://web.example./bye",
        "https://web.example.evil.example/bye",
        "https://evil.example/https://web.example/bye",
        "https://evil.example?https://web.example/bye",
        "https://web.example@evil.example/bye",
        "https://user@web.example/bye",
        "https://user:secret@web.example/bye",
        "https://:@web.example/bye",
        "https://web.example:/bye",
        "https://web.example//bye",
        "https://web.example/./bye",
        "https://web.example\\bye",
        "https://web\u{3002}example/bye",
        "https%3A%2F%2Fweb.example%2Fbye",
        "https://web.example/bye@evil.example",
        "https://web.example\\@evil.example/bye",
        "https://web.example%00.evil.example/bye",
        "https://web.example%2f@evil.example/bye",
        "http://web.example/bye",
        "ftp://web.example/bye",
        "javascript:alert(1)",
        "javascript://web.example/bye%0aalert(1)",
        "data:text/html,x",
        " https://web.example/bye",
        "https://web.example/bye ",
        "https://web.example/bye\t",
        "https://web.example/bye\r\nlocation: https://evil.example",
        "https://web.ex\u{430}mple/bye",
        "https://web.example/callback",
        "https://web.example/bye,https://evil.example",
        "null",
        &foreign,
        &long,
    ] {
        let (hint, client_id) = (("id_token_hint", tokens.id()), ("client_id", w.web.id.as_str()));
        for proof in [&[hint][..], &[client_id], &[hint, client_id], &[]] {
            let mut parameters = proof.to_vec();
            parameters.push(("post_logout_redirect_uri", wrong));
            let page = browser.open(logout(&w, &parameters));
            assert!(!page.foreign && page.answer.header("location").is_empty(), "{wrong:?}: {page:?}");
            assert!(wrong.is_empty() || page.answer.status == 400, "{wrong:?}: {page:?}");
            let answer = browser.send(post(w.server.url("/logout"), &parameters));
            assert!(answer.header("location").is_empty(), "{wrong:?}: {answer:?}");
        }
        if !wrong.is_empty() {
            assert!(is_signed_in(&w, &browser), "a request that is not right does nothing: {wrong:?}");
        }
        // The confirmation carries the address along; whoever changes it there gains nothing.
        let page = browser.open(logout(&w, &[client_id, ("post_logout_redirect_uri", BYE)]));
        if page.has("logout-page") && !wrong.is_empty() {
            let page = browser.press(&page, "logout-confirm", &[("post_logout_redirect_uri", wrong)]);
            assert!(!page.foreign, "{wrong:?}: {page:?}");
        }
        browser.through(w.web.request().url()).code();
    }
    // The hint of one client proves no address of another's, nor the other way round.
    let hint = other.tokens(&browser, "openid");
    for (hint, address) in [(hint.id(), BYE), (tokens.id(), &foreign)] {
        let page = browser.open(logout(&w, &[("id_token_hint", hint), ("post_logout_redirect_uri", address)]));
        page.is_error_page();
        assert!(is_signed_in(&w, &browser), "{address}");
    }
    let twice = logout(&w, &[("client_id", &w.web.id), ("post_logout_redirect_uri", BYE)])
        + "&post_logout_redirect_uri=https%3A%2F%2Fevil.example";
    browser.open(twice).is_error_page();
    let unproven = browser.open(logout(&w, &[("post_logout_redirect_uri", BYE)]));
    assert!(unproven.is_error_page().answer.body.contains("needs a client_id"), "{unproven:?}");
}

#[test]
fn the_client_id_alone_leads_back_once_the_person_agrees() {
    let w = world();
    let browser = w.browser();
    w.web.tokens(&browser, "openid");
    let request = logout(&w, &[("client_id", &w.web.id), ("post_logout_redirect_uri", BYE), ("state", "<&>\"'")]);
    let page = browser.open(&request);
    browser.press(page.is("logout-page"), "logout-cancel", &[]).is("home-page");
    assert!(is_signed_in(&w, &browser));
    let page = browser.press(&browser.open(&request), "logout-confirm", &[]);
    assert_eq!(page.callback()["state"], "<&>\"'");
    assert!(!is_signed_in(&w, &browser));
    // Nobody is signed in any more, and the way back is the client's all the same.
    assert_eq!(browser.open(&request).callback()["state"], "<&>\"'");
    browser.open(logout(&w, &[])).is("logout-done");
    browser.open(logout(&w, &[("client_id", "client_unknown")])).is_error_page();
}

#[test]
fn s74_a_hint_serves_its_own_client_only() {
    let w = world();
    let browser = w.browser();
    let tokens = w.web.tokens(&browser, "openid");
    let wrong = [("id_token_hint", tokens.id()), ("client_id", w.third.id.as_str())];
    browser.open(logout(&w, &wrong)).is_error_page();
    assert!(is_signed_in(&w, &browser));
}

#[test]
fn a_hint_may_have_expired_and_its_key_may_sign_no_more() {
    let w = World::new(&[
        ("COUNTERSIGN_ID_TOKEN__LIFETIME", "1s"),
        ("COUNTERSIGN_ACCESS_TOKEN__LIFETIME", "1s"),
        ("COUNTERSIGN_SIGNING_KEY__PUBLISH_AHEAD", "0s"),
        ("COUNTERSIGN_SESSION__SID", "per_client"),
    ]);
    let browser = w.browser();
    let tokens = w.web.tokens(&browser, "openid");
    let kid = support::header(tokens.id())["kid"].clone();
    w.server.cli_ok(&["key", "rotate", "--algorithm", "RS256"], "");
    wait_for("the new key to sign", || {
        let tokens = w.web.tokens(&w.browser(), "openid");
        (support::header(tokens.id())["kid"] != kid).then_some(())
    });
    wait_for("the hint to expire", || {
        (claims(tokens.id())["exp"].as_u64().unwrap() <= support::jose::now()).then_some(())
    });
    let page = browser.open(logout(&w, &[("id_token_hint", tokens.id()), ("post_logout_redirect_uri", BYE)]));
    assert_eq!(page.url.as_str(), BYE);
    assert!(!is_signed_in(&w, &browser));
}

#[test]
fn a_hint_of_a_client_that_is_gone_speaks_for_nobody() {
    let w = world();
    let browser = w.browser();
    let app = application(&w, &word(), true);
    let hint = app.tokens(&browser, "openid").id().to_owned();
    let bye = app.registration["post_logout_redirect_uris"][0].as_str().unwrap();
    w.server.cli_ok(&["client", "delete", &app.id], "");
    wait_for("the client's end", || (!w.server.knows(&app)).then_some(()));
    browser.open(logout(&w, &[("id_token_hint", &hint), ("post_logout_redirect_uri", bye)])).is_error_page();
    let page = browser.open(logout(&w, &[("id_token_hint", &hint)]));
    assert!(is_signed_in(&w, &browser));
    browser.press(page.is("logout-page"), "logout-confirm", &[]).is("logout-done");
    assert!(!is_signed_in(&w, &browser));
}

fn frames(page: &Page) -> Vec<url::Url> {
    let frames = support::browser::tags(&page.answer.body).filter(|tag| tag.name == "iframe");
    frames.map(|frame| frame.attributes["src"].parse().unwrap()).collect()
}

#[test]
fn s116_frames_bring_iss_and_sid_to_registered_addresses_and_the_policy_opens_for_exactly_those() {
    let w = world();
    let browser = w.browser();
    let (one, two, silent) = (word(), word(), word());
    let (first, second) = (application(&w, &one, true), application(&w, &two, true));
    let third = application(&w, &silent, false);
    let tokens = first.tokens(&browser, "openid");
    second.tokens(&browser, "openid");
    third.tokens(&browser, "openid");
    let sid = claims(tokens.id())["sid"].as_str().unwrap().to_owned();
    let bye = first.registration["post_logout_redirect_uris"][1].as_str().unwrap();
    let page =
        browser.open(logout(&w, &[("id_token_hint", tokens.id()), ("post_logout_redirect_uri", bye), ("state", "s")]));
    page.is("logout-leaving");
    assert!(page.url.path().starts_with("/signed-out/cs_so_"), "{}", page.url);
    assert!(!is_signed_in(&w, &browser));

    let frames = frames(&page);
    let mut hosts: Vec<_> = frames.iter().map(|url| url.host_str().unwrap().to_owned()).collect();
    hosts.sort_unstable();
    let mut expected = [format!("{one}.example"), format!("{two}.example")];
    expected.sort_unstable();
    assert_eq!(hosts, expected);
    for frame in &frames {
        let query: Vec<(String, String)> = frame.query_pairs().into_owned().collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let issuer = w.server.issuer.as_str();
        assert_eq!(query, [pair("a", "1"), pair("b", "2"), pair("iss", issuer), pair("sid", &sid)]);
    }
    let policy = page.answer.header("content-security-policy");
    let rule = policy.split(';').find(|rule| rule.trim().starts_with("frame-src")).unwrap();
    let mut sources: Vec<&str> = rule.split_whitespace().skip(1).collect();
    sources.sort_unstable();
    assert_eq!(sources, expected.each_ref().map(|host| format!("https://{host}")), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("script-src 'self';"), "{policy}");

    // Without scripts a link leads back.
    let link = support::browser::tags(&page.answer.body)
        .find(|tag| tag.attributes.get("id").is_some_and(|id| id == "logout-continue"))
        .unwrap();
    assert_eq!(link.attributes["href"], format!("https://{one}.example/bye?from=idp&state=s"));
    for name in [&one, &two, &silent] {
        assert!(page.answer.body.contains(name.as_str()));
    }
    assert!(page.answer.body.contains("Cannot be told."), "of the third");

    // It can be looked at again, by this browser alone.
    browser.open(page.url.as_str()).is("logout-leaving");
    let stranger = w.browser().open(page.url.as_str());
    assert_eq!(stranger.answer.status, 404);
    assert!(!stranger.answer.body.contains(&one), "{stranger:?}");
    let other = HTTP.get(w.server.url("/signed-out/cs_so_x"));
    assert_eq!(support::send(other).status, 404);
}

#[test]
fn a_sign_out_at_home_says_where_it_happened() {
    let w = world();
    let browser = w.browser();
    let name = word();
    application(&w, &name, true).tokens(&browser, "openid");
    let home = browser.open(w.server.url("/"));
    let page = browser.press(home.is("home-page"), "sign-out", &[]);
    page.is("logout-done");
    assert!(page.answer.body.contains(&format!("<span class=\"name\">{name}</span>")), "{page:?}");
    assert_eq!(frames(&page).len(), 1);
    assert!(!page.answer.header("content-security-policy").contains("script-src"), "nowhere to go on to");
    assert!(!is_signed_in(&w, &browser));
}

#[test]
fn registration_takes_frames_of_the_clients_own_origin_only() {
    let w = world();
    let register = |uri: &str| {
        let metadata = json!({"redirect_uris": ["https://a.example/cb"], "frontchannel_logout_uri": uri});
        w.server.cli(&["client", "create", "-"], &metadata.to_string())
    };
    assert!(register("https://a.example/out").status.success());
    let refused = register("https://b.example/out");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("frontchannel_logout_uri"), "{refused:?}");
}

#[test]
fn s115_the_page_says_who_was_told_and_who_could_not_be_told_yet() {
    use std::io::{Read as _, Write as _};
    let w = World::new(&[("COUNTERSIGN_OUTBOUND__ALLOW_PRIVATE", "true")]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let living = format!("http://{}/out", listener.local_addr().unwrap());
    let dead = format!("http://127.0.0.1:{}/out", support::server::free_port());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 8192]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let browser = w.browser();
    for (name, uri) in [("Living", &living), ("Dead", &dead)] {
        let app = w.server.client(&json!({
            "client_name": name, "redirect_uris": ["https://told.example/cb"], "skip_consent": true,
            "backchannel_logout_uri": uri,
        }));
        app.tokens(&browser, "openid");
    }
    let home = browser.open(w.server.url("/"));
    let page = browser.press(&home, "sign-out", &[]);
    let says = |page: &Page, name: &str, state: &str| {
        page.answer.body.contains(&format!("<span class=\"name\">{name}</span> <small>{state}</small>"))
    };
    let page = wait_for("one told and one not", || {
        let page = browser.open(page.url.as_str());
        let told = says(&page, "Living", "Signed out there too.");
        (told && says(&page, "Dead", "Could not be told yet. We keep trying.")).then_some(page)
    });
    assert!(page.has("logout-done") && page.has("logout-again"), "{page:?}");
}
