"""English cues of negation, supposition, family and past, and where their scopes end.

Written for clinical notes; patterns are regular expressions over folded text, as in `french_cues`.

Sources of the kinds of cues: NegEx (Chapman et al., J Biomed Inform 2001) and ConText (Harkema et al., 2009).
"""

from fedhealth.search.cues import Cue, Grammar, any_of, table

_FOUND = (
    r"(?:seen|found|identified|noted|observed|detected|visuali[sz]ed|appreciated|demonstrated|evident|present"
    r"|palpable"
    r"|reported)"
)
_EXCLUDED = r"(?:excluded|ruled out|eliminated|refuted|disproved|disproven)"
_RELATIVE = (
    r"(?:mothers?|fathers?|mom|dad|parents?|brothers?|sisters?|siblings?|aunts?|uncles?|cousins?|nieces?|nephews?"
    r"|grand ?-?(?:mother|father|parent)s?)"
)
_REPORTS = (
    r"(?:reports?|reported|states?|stated|says|said|noticed|noted|notes|denies|denied|called|brought|accompanied"
    r"|is present|describes|feels|thinks|believes|was (?:informed|present|called)|at bedside)"
)
_YEAR = r"(?:19|20)[0-9]{2}"

_NONE = Cue(
    table(rf"""
        no (?:doubt|change|increase|decrease|improvement|worsening|further|longer responding)
        non[ -]?(?:hodgkin\w*|small[ -]cell|insulin\w*|alcoholic|steroidal|st\b|seminomat\w*|q[ -]?wave|union)
        no (?:significant|interval|appreciable) (?:change|increase|decrease|improvement|worsening)
        without (?:change|improvement|difficulty|doubt|delay|incident|event)
        not (?:only|just|merely|necessarily|improved|changed|responded)
        not (?:have |yet |been )?(?:improved|changed|resolved|healed|relieved)
        (?:gram|rh|rhesus|her ?-?2)[- ]negative
        risk factors?
        history of present(?:ing)? (?:illness|complaint)
        history and physical
        history (?:is |was )?(?:obtained|taken|unremarkable)
        no (?:contraindications?)
        even if
        as if
        absence seizures?
        (?:her |his |the )?{_RELATIVE} {_REPORTS}
        evaluated (?:by|in|at)
    """),
    None,
    "none",
)
_DOUBTED = Cue(
    table(rf"""
        (?:cannot|can not|can't|could not|couldn't|unable to|difficult to
        |not possible to) (?:be )?(?:\w+ly )?(?:exclude|excluded|rule out|ruled out)
        (?:not|never) (?:be |been )?(?:\w+ly |completely )?{_EXCLUDED}
        not (?:certain|clear|sure|confirmed|proven|definite)
        (?:unclear|uncertain|unsure|unknown|undetermined) (?=(?:whether|if|about)\b)
        not (?:entirely )?clear (?=(?:whether|if)\b)
    """),
    "hypothesis",
    "around",
)
_SUPPOSED_BEHIND = Cue(
    table(r"""
        (?:to )?rule out
        (?:to )?(?:exclude|confirm|evaluate for|assess for|look for|screen for|check for)
        evaluat(?:ed|ion|e) for
        assess(?:ed|ment) for
        work ?-?up (?:for|of)
        (?:possible|probable|presumed|suspected|questionable|presumptive|putative|potential)
        (?:possibly|probably|presumably|likely|perhaps|potentially)
        (?:maybe|suspect|suspects|suspecting|suspicion|suspicious|concerning|worrisome|concern|concerns) (?=(?:for
        |of|about|a|an|the)\b)
        suspect
        suspects
        suspicion
        suspicious for
        concern(?:ing|ed)? (?:for|about)
        (?:may|might|could|would|should) (?:\w+ )?(?:represent|be|have|reflect|suggest|indicate|correspond|cause
        |develop|include)
        (?:consistent|compatible) with
        suggest(?:s|ing|ive)?(?: of)?
        in favou?r of
        appears? to (?:have|be)
        seems? (?:to (?:have|be))?
        consider(?:ed|ing)?
        differential(?: diagnos[ie]s)?(?: is| was)? ?(?:includes?|included|of)?
        question of
        questionable
        whether
        if
        in case of
        at risk (?:for|of)
        risks? (?=(?:of|for)\b)
        (?:watch|monitor|observe|screening|screened|screen|prophylaxis|prevention|prophylactic|vaccination
        |vaccinated|precautions) (?:for|of|against)
        prevent(?:ing)?
        call (?:the |your |us )?(?:\w+ )?(?:for|if)
        return (?:for|if|with)
        empirically for
        as (?:needed|necessary) for
        prn (?:for)?
        potential for
        risks? including
        worried (?:about|for)
        worr(?:y|ies) about
        possibility of
        think(?:s)? (?:he|she|this|it|that)
        in the event
    """),
    "hypothesis",
    "behind",
)
_SUPPOSED_BEFORE = Cue(
    table(r"""
        (?:is|are|was|were|remains?|seems?|appears?) (?:possible|probable|likely|suspected|considered|questionable
        |presumed)
        (?:suspected|possible|probable|questionable|presumed|uncertain|considered|likely)(?= *(?:[,;.)]|$))
        in question
        (?:in|on) (?:the )?differential
        is pending
    """),
    "hypothesis",
    "before",
    reach=8,
)
_NEGATED_BEFORE = Cue(
    table(rf"""
        (?:is|are|was|were|has been|have been|been) {_EXCLUDED}
        (?:ruled out|excluded)(?= *(?:[,;.)]|$|by|on|with|after))
        (?:not|never|no longer) (?:been |be )?{_FOUND}
        (?:has|have|had) (?:\w+ )?(?:resolved|disappeared|subsided|abated|cleared)
        (?:is|are|was|were) (?:now )?undetectable
        undetectable
        non-?reactive
        neg(?= *(?:[,;.)]|$))
        (?:is|are|was|were) (?:absent|negative|denied|unlikely|resolved|gone|nonexistent)(?! (?:for|on)\b)
        (?:absent|unlikely|negative|denied|resolved)(?= *(?:[,;.)]|$|on|by|at|in|x|times))
        free(?= *$)
    """),
    "negated",
    "before",
    reach=8,
)
_NEGATED_EITHER = Cue(
    table(r"""
        (?:highly |very |most )?(?:unlikely|improbable)(?: (?:to (?:be|have|represent)|for))?
    """),
    "negated",
    "either",
    reach=8,
)
_NEGATIVE = Cue(
    table(r"neg(?:ative)?(?= (?!for\b|on\b|x\b|by\b|at\b|in\b|times\b)[a-z])"), "negated", "behind", opens_clause=True
)
_NEGATED_BEHIND = Cue(
    table(r"""
        no longer(?: (?:has|have|having|is|are|was|were|be|been|being|reports?|complain\w* of|experienc\w+
        |suffer\w* from|present with|with|on))?
        no
        not
        never
        nor
        neither
        none of
        nothing (?:to )?(?:suggest|suggestive|indicate|support)?
        without
        w/o
        deni?y?(?:s|es|ed|ying)
        denys
        deny
        negative (?:for|on)
        neg for
        (?:absence|lack|resolution|disappearance|clearance) of
        (?:free|devoid|clear) of
        fail(?:s|ed)? to (?:show|grow|reveal|demonstrate|identify|detect)
        (?:doesn't|didn't|don't|isn't|wasn't|aren't|weren't|hasn't|haven't|hadn't|won't|doesnt|didnt|cannot|can't)
        rul(?:es|ed|ing) out(?= (?!by\b|with\b|on\b)\w)
        exclud(?:es|ed|ing)(?= (?:a|an|any|the)\b)
        doubt
        absent
        resolved
        unremarkable for
        rather than
        instead of
    """),
    "negated",
    "behind",
    reach=16,
)
_NEGATED_MARKS = Cue((r"w/o\b",), "negated", "behind", is_mark=True)
# The adjective alone: "non-Hodgkin lymphoma" is a lymphoma. Inside a word ("nontraumatic") it makes another word.
_NEGATED_WORD = Cue((r"non[ -] ?(?=[a-z])",), "negated", "behind", reach=1, is_mark=True)
_NEGATED_SIGNS = Cue(
    (
        r" {0,3}[:=] *(?:no|none|nil|0|absent|negative|neg|denies|denied|-)(?!\w)(?= *(?:[,;.)]|$))",
        r"\(-\)|\(neg\)",
        r"(?<=[a-z]) -(?= *(?:[,;.)]|$))",
    ),
    "negated",
    "before",
    reach=8,
    is_mark=True,
)
_SUPPOSED_MARKS = Cue((r"r/o\b", r"(?:^|(?<=[ ,;:]))\?+ *(?=\w)"), "hypothesis", "behind", reach=8, is_mark=True)
_QUESTION = Cue((r" {0,3}\?+(?= |$)",), "hypothesis", "before", reach=10, is_mark=True)
_AROUND = Cue(table("versus\nvs"), "hypothesis", "around", reach=4)
_FAMILY_LIST = Cue(
    table(rf"""
        family (?:medical )?history
        familial (?:history|predisposition)
        (?:maternal|paternal) {_RELATIVE}
        {_RELATIVE}
        fhx?
        runs in the family
        (?:his|her) (?:son|daughter|children|twin)
    """),
    "family",
    "behind",
    lists="all",
    reach=30,
)
_FAMILY_BEFORE = Cue(
    table(rf"""
        (?:in|of) (?:his|her|the|a|an|one|two|both|several) (?:\w+ )?{_RELATIVE}
        in (?:his|her|the) family
        runs in (?:his|her|the) family
    """),
    "family",
    "before",
)
_PAST_LIST = Cue(
    table("""
        past (?:medical |surgical |ocular |psychiatric |obstetric )?(?:and surgical )?history(?: of)?
        (?:medical|surgical|previous|prior|remote) history(?: of)?
        pmhx?
        pshx?
    """),
    "history",
    "behind",
    lists="all",
    reach=60,
)
_PAST_BEHIND = Cue(
    table("""
        (?:known )?history of
        hx of
        hx
        (?:previous|prior|former|remote|previously)
        s/p
        status[ -]post
        used to (?:have|be)
    """),
    "history",
    "behind",
)
_PAST_MARKS = Cue((r"s/p\b", r"h/o\b", r"p/h/o\b"), "history", "behind", is_mark=True)
_PAST_AROUND = Cue(
    table(rf"""
        in (?:the )?{_YEAR}(?:'?s)?
        (?:years|decades) ago
        as a (?:child|teenager|young (?:man|woman|adult)|boy|girl)
        in (?:childhood|adolescence|the past|infancy)
        last year
        (?:many|several|some) years (?:ago|back|earlier)
    """),
    "history",
    "around",
    reach=12,
)

ENGLISH = Grammar(
    (
        _NONE,
        _DOUBTED,
        _FAMILY_LIST,
        _PAST_LIST,
        _NEGATED_EITHER,
        _NEGATIVE,
        _NEGATED_BEFORE,
        _SUPPOSED_BEFORE,
        _NEGATED_BEHIND,
        _SUPPOSED_BEHIND,
        _AROUND,
        _PAST_BEHIND,
        _PAST_AROUND,
        _FAMILY_BEFORE,
        _NEGATED_MARKS,
        _NEGATED_WORD,
        _NEGATED_SIGNS,
        _SUPPOSED_MARKS,
        _PAST_MARKS,
        _QUESTION,
    ),
    barriers={
        "every": any_of(r"""
            ;  \.(?= |$|,)  =>  ->  →
            but  however  though  although  except  aside from  apart from  yet  other than  because  since  still
            whereas  while  nevertheless
        """),
        "negated": any_of(r"""
            [:()]  \+
            with  which  \b(?<!not )due to  secondary to  that  reports?  states?  presents?
            \b(?<!never )(?<!not )ha[sd]\b
            is  are  was  were  then  causes?  complains?  c/o  admits?  endorses?  for (?:the|his|her|which)  suspected
            possible  despite  therefore  thus
        """),
        "hypothesis": any_of(r"""
            [()]
            which  despite  a stress test  then  will be  was (?:planned|advised|performed)
        """),
        "family": any_of("patient  she has  he has  herself  himself  healthy  well"),
        "history": any_of("""
            presents?  presented  currently  today  now  admitted  who (?:comes|presents|is)  complains?  is here
            allergies  medications?  was (?:seen|brought|admitted|evaluated)
        """),
    },
    conjunction=r" and ",
    member=r" *(?:or |nor |any |and no )",
    clause=r" *(?:(?:(?! n?or )[^,;:.]){1,60}\b(?:present|positive|yes)(?= *(?:[,;.]|$))|"
    + any_of("""
        but  the  he  she  they  we  i  it  his  her  this  there  patient  with  an?  is  was  has  had  were  are
        will  please  reports  states  recommend  call  denies  however  abdomen  lungs  heart  then  as  in  on  at
        tolerat\\w+  slept  affect  plan
    """)
    + ")",
    alternative=r"(?:[^,;:.]{1,40},){0,8}[^,;:.]{0,40} (?:or|nor) ",
    complement=r" *(?:[,;.:)?!(/]|$|and |or |but |in |on |at |of |with |versus|vs )",
    lists_by_commas=True,
)
