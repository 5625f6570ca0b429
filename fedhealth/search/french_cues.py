"""French cues of negation, supposition, family and past, and where their scopes end.

Written for clinical notes: reports, letters, emergency and nursing notes, with their abbreviations, capitals, slips and
missing accents. Patterns are regular expressions over folded text (small letters, no accents, one kind of
apostrophe).

Sources of the kinds of cues: NegEx and ConText in French (Deleger & Grouin, MIE 2012; Abdaoui et al., MEDINFO 2017) and
the qualifiers of EDS-NLP (Assistance Publique - Hôpitaux de Paris).
"""

from fedhealth.search.cues import Cue, Grammar, any_of, table

_FOUND = (
    r"(?:retrouve|retenu|vu|visualise|objective|identifie|observe|constate|note|decele|detecte|individualise"
    r"|mise? en evidence|mises en evidence|percu|palpe|rapporte|signale|diagnostique|visible|palpable"
    r"|perceptible)(?:e|s|es)?"
)
_EXCLUDED = r"(?:exclu|elimine|ecarte|infirme|refute|recuse)(?:e|s|es)?"
_EXCLUDE = r"(?:eliminer|exclure|ecarter|infirmer|refuter|recuser)"
_SURE = r"(?:certain|sur|clair|evident|formel|confirme|prouve|impossible|formelle)(?:e|s|es)?"
_ARTICLE = r"(?:une?|les?|la|l|tout|toute|toutes|tous|d|de|des|du|ce|cette|aucune?)"
_RELATIVE = (
    r"(?:meres?|peres?|maman|papa|parents?|freres?|s(?:oe|œ|e)urs?|oncles?|tantes?|cousine?s?|neveux?|nieces?|fratrie"
    r"|jumeau|jumeaux|jumelles?|grands?[ -]?(?:mere|pere|tante|oncle|parent)s?|collateraux|ascendants?|aieule?s?)"
)
_WHOSE = r"(?:la|le|les|l'|sa|son|ses|leurs?|une?|deux|trois|plusieurs|du|des|de la|de sa|de son|de ses|aux?)"
_SIDE = r"(?: (?:aine|ainee|cadet|cadette|jumeau|jumelle|maternel|paternel|maternelle|paternelle)s?)?"
_REPORTS = (
    r"(?:signale|rapporte|dit|decrit|explique|a (?:remarque|note|constate|vu|appele|amene)|constate|remarque|note"
    r"|s'inquiete|inquiete|accompagne|vue?|presente? (?:au|lors|ce)|prevenue?s?|informee?s?|angoissee?|d'accord"
    r"|refuse|demande|souhaite|pense|trouve|appelle|amene|ont (?:remarque|note|constate|vu|appele|amene))"
)
_YEAR = r"(?:19|20)[0-9]{2}"

_NONE = Cue(
    table(rf"""
        sans aucun doute
        (?:aucun|nul|pas de) doute
        pas (?:seulement|uniquement|simplement|encore opere)
        pas d'(?:amelioration|augmentation|aggravation|evolution|autres?)
        pas de (?:changement|diminution|modification|difference|regression|majoration|contre[ -]indication)
        aucune? (?:changement|diminution|modification|amelioration|augmentation|aggravation|evolution|regression)
        sans (?:changement|diminution|modification|amelioration|augmentation|aggravation|regression)
        sans (?:contre[ -]indication|surprise|delai|tarder|attendre|cesse|arret|encombre)
        non (?:seulement|negligeables?|loin)
        non ?-?(?:hodgkin\w*|(?:a )?petites? cellules?|insulin\w*|steroid\w*|st\b|seminomat\w*|epidermoide)
        (?:steato\w+|steatose|hepatopathie|cirrhose)(?: \w+)? non ?-?alcoolique
        (?:gram|rhesus|her ?-?2) (?:negatif|negative)s?
        absences? epileptiques?
        crises? d'absences?
        facteurs? de risques?
        potentiels? evoques?
        (?:meme|comme) si
        si (?:bien|besoin)
        s'il (?:vous|te) plait
        histoire de la maladie
        (?:patiente?|il|elle|malade) evoque
        (?:maison|cellules?) meres?
        (?:vit|habite|vivant) (?:avec|chez) (?:sa|son|ses|leurs?) \w+
        {_RELATIVE}{_SIDE} {_REPORTS}
        (?:(?:sa|son|ses|leurs?|la|le|les) )?(?:enfants?|fils|filles?|femme|epouse|epoux|mari|conjointe?) {_REPORTS}
        (?:sa|son|ses|leurs?) {_RELATIVE}{_SIDE} {_REPORTS}
        (?:par|avec|selon|d'apres|aupres de) (?:sa|son|ses|la|le|les) {_RELATIVE}
        (?:diagnosti\w+|decouverte?s?)[^,.;]{{0,30}} en {_YEAR}
    """),
    None,
    "none",
)
_DOUBTED = Cue(
    table(rf"""
        n(?:e |')(?:[\w']{{1,25}} ){{0,5}}?(?:d'|de |d )?(?:\w+ment )?{_EXCLUDE}
        sans (?:[\w']{{1,25}} ){{0,3}}?{_EXCLUDE}
        n(?:e |')(?:[\w']{{1,25}} ){{0,5}}?{_EXCLUDED}
        (?:non|pas) (?:\w+ment )?{_EXCLUDED}
        (?:impossible|difficile) (?:de |d'){_EXCLUDE}
        n(?:e |')(?:[\w']{{1,25}} ){{0,3}}?pas (?:\w+ment )?{_SURE}
        (?:non|pas) (?:encore |\w+ment )?{_SURE}
        sans (?:en etre sure?|etre (?:certaine?|sure?))
    """),
    "hypothesis",
    "around",
)
_NO_DOUBT = Cue(table("sans doute\nsans certitude"), "hypothesis", "behind")
_NEGATED_BEFORE = Cue(
    table(rf"""
        n(?:e |')(?:[\w']{{1,25}} )?(?:pas|plus) (?:ete|etre) (?:\w+ment )?{_FOUND}
        n(?:e |')(?:[\w']{{1,25}} )?pas ete confirme(?:e|s|es)?
        n'(?:est|etait|sont|etaient) (?:pas|plus) (?:\w+ment )?{_FOUND}
        ne sont (?:pas|plus) {_FOUND}
        non {_FOUND}
        absente?s?
        negatifs?
        negatives?
        disparue?s?
        disparai(?:t|ssent)
        (?:se sont |s'est )?amendee?s?
        (?:a|ont) (?:cede|disparu|regresse completement)
        neg(?= *(?:[,;.)]|$))
        indetectables?
        inexistante?s?
        nie(?= *(?:[,;.)]|$))
        nie(?:e|s|es)
        resolue?s?
        {_EXCLUDED.replace("(?:exclu|", "(?:", 1)}(?! (?:{_ARTICLE})\b)
        exclue?s?
    """),
    "negated",
    "before",
    reach=10,
)
_NEGATED_LIST = Cue(
    table(rf"""
        {_EXCLUDED} *:
        (?:absente?s?|negatifs?|negatives?|nie|absence) *:
    """),
    "negated",
    "behind",
    lists="all",
    opens_clause=True,
)
_NO_MORE = Cue(table(r"plus (?=d(?:e |')(?![0-9]))"), "negated", "behind", opens_clause=True)
_DENIED = Cue(
    table(r"""
        ni(?:e|ent|ant)(?= (?!(?:une?|les?|la|des?|du|ce|cette|aucune?|que|avoir|etre|prendre|consommer|boire|fumer
        |vouloir|souffrir|ressentir|presenter)\b|l'|d'|qu')\w)
    """),
    "negated",
    "behind",
    lists="of few words",
)
_NEGATED_EITHER = Cue(
    table("improbables?\n(?:peu|tres peu|fort peu) (?:probable|vraisemblable)s?"), "negated", "either", reach=10
)
_NEGATED_MARKS = Cue(
    (
        r" {0,3}[:=] *(?:non|0|neant|aucune?s?|absence|absente?s?|negatifs?|negatives?|neg|nul|nulle|nulles|o|s/o|-)"
        r"(?![\w/])(?= *(?:[,;.)/-]|$))",
        r"(?<=[a-z]) -(?= *(?:[,;.)]|$))",
        r"\(-\)|\( - \)|\(0\)|\(non\)",
        r"non(?= *(?:[,;.)]|$))",
        r"(?<=[a-z] )0(?= *(?:[,;.]|$))",
    ),
    "negated",
    "before",
    reach=8,
    is_mark=True,
)
_NEGATED_BEHIND = Cue(
    table(rf"""
        (?:pas d'|aucun |sans |ni |peu d')(?:argument|element)s?(?: \w+){{1,3}}? pour
        pas (?=(?:[\w]+[ '-]){{0,4}}?{_ARTICLE}\b)
        pas d(?=[aeiouh]\w{{4}})
        abs?c?ences?(?: (?:complete|totale|notable))?(?= *(?:d\b|de\b|des\b|du\b))
        aucun+e?s?
        null?ement
        jamais
        ni
        sans
        sns
        n(?:e |')(?:[\w']{{1,25}} ){{0,2}}?plus(?= (?:\w+ ){{0,2}}?{_ARTICLE}\b)
        disparition
        (?:regression|resolution) (?:complete|totale)
        indemnes? (?=d)
        exempte?s? (?=d)
        depourvue?s? (?=d)
        denuee?s? (?=d)
        (?:libre|vierge)s? (?=d(?:e |')(?:tout|toute|tous|toutes)\b)
        negatif pour
        negative pour
        ni(?:e|ent|ant)
        (?:refute|recuse|dement)(?= {_ARTICLE}\b)
        rien (?=(?:n'|n |ne |en faveur|pour))
        (?:elimine|exclut|exclue?|ecarte|infirme|eliminent|excluent|ecartent|infirment)(?= (?:{_ARTICLE})\b)
        (?:eliminant|excluant|ecartant|infirmant)
        (?:elimin|ecart|infirm)(?:ait|aient|a|erent)(?= {_ARTICLE}\b)
        exclu(?:ait|aient|rent)(?= {_ARTICLE}\b)
        (?:faible probabilite|probabilite (?:tres )?faible)
        permet(?:tant|tent|tait)? (?:d'|de )(?:\w+ment )?{_EXCLUDE}
        permis (?:d'|de )(?:\w+ment )?{_EXCLUDE}
        peu d'arguments?
        peu d'elements?
        (?:peu|pas) (?:en faveur|evocat(?:eur|rice)s?|compatibles?|suspecte?s?)
        peu de (?:chance|risque|signe)s?
    """),
    "negated",
    "behind",
)
_NEGATED_NEAR = Cue(
    table("""
        pas
        n(?:e |')(?:[\\w']{1,25} )?plus
    """),
    "negated",
    "behind",
    reach=3,
)
_NEGATED_WORD = Cue(table("non(?= ?-?[a-z])"), "negated", "behind", reach=1)
_NEGATED_SIGNS = Cue(
    (r"pas d(?=[aeiouh]\w{4})", r"[øØ∅](?: d[e'])?", r"(?:^|(?<=[,;:] )|(?<=- ))0(?= [a-z]{3})"),
    "negated",
    "behind",
    reach=4,
    is_mark=True,
)
_SUPPOSED_BEHIND = Cue(
    table(rf"""
        susp+i[sc]*[ct]ions?
        hypothese
        eventualite
        possibilite
        risques?
        (?:s'assurer de|verifier|controler|confirmer) l'absence
        (?:a|haut) risque
        crain(?:t|dre|te|tes|ons|drait)
        redoute(?:r|s|nt)?
        doutes? (?=(?:sur|quant|concernant|avec|d|de)\b)
        recherche(?= *(?:d|de|des|du|:)\b)
        rechercher(?= {_ARTICLE}\b)
        {_EXCLUDE}
        pour confirmer
        confirmer ou
        (?:evoque|discute)(?:nt|r)?(?= {_ARTICLE}\b)
        (?:ne pas )?(?:meconnaitre|passer a cote)
        mefier
        evoquant
        evocat(?:eur|rice)s? (?=d)
        suspecte?s? (?=(?:d|de)\b)
        suspect(?:er|ant|ons|ent|e|ait)(?= {_ARTICLE}\b)
        (?:soupconne|suggere|suggerant|suggerent|soupconnent)(?= {_ARTICLE}\b)
        (?:faire|fait|faisant|font) (?:suspecter|craindre|discuter|evoquer|redouter|penser|rechercher|poser)
        pense(?:r|z)? a
        orient(?:e|ent|ant|er) (?:plutot )?vers
        en faveur
        compatibles? avec
        (?:peut|pouvant|peuvent|pourrait|pourraient) (?:\w+ )?(?:correspondre|evoquer|rentrer|s'integrer|etre
        |traduire|faire)
        pourrai(?:t|ent)
        serai(?:t|ent)
        aurai(?:t|ent)
        faudrait
        sembl(?:e|ent|ant|erait|ait)
        peut[ -]etre
        (?:tres )?(?:probable|possible|vraisemblable)ment
        eventuellement
        a priori
        il est (?:possible|probable|vraisemblable)
        au cas ou
        au moindre
        surveil+(?:er|ance|ez|ons)
        (?:prevenir|prevention|prophylaxie|prophylactique|depistage|depister|preventif|preventive)
        vaccin(?:ation|ations|ee?s?|er)? (?:contre|anti)
        quid
        (?:s'agi(?:t|sse|rait)|est|serait|existe|aurait|a|y a)(?:-t)?-(?:il|elle|ce)
        (?:interroge(?:ons|r|nt)?|interrogations?|questionnements?) sur
        question (?=d)
        differentiel avec
        si(?= (?!ge|re)\w)
        s'(?:il|ils|elle|elles)
        dans l'(?:hypothese|eventualite)
        a l'affut
        etiquete
        bilan (?:etiologique )?(?=(?:d'une?|de)\b \w+ (?:suspecte|probable|possible))
    """),
    "hypothesis",
    "behind",
)
_CONDITION = Cue(table("en cas\nsous reserve"), "hypothesis", "behind")
_SUPPOSED_LIST = Cue(
    table("""
        diagnostics? differentiels?
        hypotheses? (?:diagnostiques?|principales?|etiologiques?)
        hypotheses(?= *:)
        dd(?= *:)
        ddx
        differentiel(?= *:)
        reconsulter si
        revenir si
        consulter si
        consulter en cas
        rappeler si
    """),
    "hypothesis",
    "behind",
    lists="all",
    reach=30,
)
_SUPPOSED_ADJECTIVE = Cue(
    table("""
        probables?
        possibles?
        eventuel(?:le)?s?
        presumee?s?
        supposee?s?
        potentiel(?:le)?s?
        hypothetiques?
        vraisemblables?
        plausibles?
        soupconnee?s?
    """),
    "hypothesis",
    "adjective",
    reach=10,
)
_SUPPOSED_BEFORE = Cue(
    table(rf"""
        suspectee?s?(?= *(?:[,;.)?]|$|a |au|sur|dans|chez|devant|par|lors|en|cliniquement))
        (?:evoque|envisage|discute|redoute)(?:e|s|es)?(?! (?:{_ARTICLE})\b)
        douteu(?:x|se|ses)
        incertaine?s?
        envisageables?
        (?:est|reste|parait|semble|sont|restent) (?:possible|probable|vraisemblable|plausible|envisageable)s?
        en attente de confirmation
        se confirmai(?:t|ent)
    """),
    "hypothesis",
    "before",
    reach=10,
)
_SUPPOSED_EITHER = Cue(
    table("""
        a (?:eliminer|rechercher|confirmer|ecarter|exclure|discuter|evoquer|controler|verifier|documenter|redouter
        |infirmer)
        a ne pas meconnaitre
        a surveiller
    """),
    "hypothesis",
    "either",
)
_SUPPOSED_AROUND = Cue(table("versus\nvs"), "hypothesis", "around", reach=4)
_SUPPOSED_MARKS = Cue(
    (r"r/o\b", r"^\?+ *(?=\w)", r"(?<=[,;:/-] )\?+ *(?=\w)"), "hypothesis", "behind", reach=8, is_mark=True
)
_QUESTION = Cue((r" {0,3}\?+",), "hypothesis", "before", reach=10, is_mark=True)
_FAMILY_LIST = Cue(
    table(rf"""
        (?:antecedents?|atcds?|tacds?)(?: \w+)? fam(?:ilial|iliaux|iliale|iliales)?
        fam(?:iliale?s?|iliaux)?(?= *:)
        heredite
        terrain familial
        contexte familial
        cas familia(?:l|ux)
        (?:dans|de) (?:la|sa) famille
        (?:sa|la|leur) famille (?:a|compte|presente)
        (?:femme|mari|epouse|epoux|conjointe?) (?:est |sont )?(?:decede|mort|atteint|porteur|porteuse)(?:e|s|es)?
        {_RELATIVE}{_SIDE}
    """),
    "family",
    "behind",
    lists="all",
    reach=30,
)
_CHILD = Cue(
    table(r"""
        (?:ses|leurs) (?:deux |trois |quatre |petits[ -])?(?:enfants|fils|filles)
        (?:deux|trois|quatre|plusieurs|autres) (?:enfants|fils|filles)(?= *(?:atteint|decede|porteu|malade|suivi
        |traite|:|avec|ayant))
        (?:son|un) (?:fils|petit[ -]fils)
        (?:sa|une) (?:fille|petite[ -]fille)
    """),
    "family",
    "behind",
)
_FAMILY_BEFORE = Cue(
    table(rf"""
        chez {_WHOSE} ?(?:\w+ )?{_RELATIVE}
        dans (?:la|sa) famille
        familia(?:l|le|ux|les)
        du cote (?:maternel|paternel)
        cote (?:maternel|paternel)
        de (?:la|sa) {_RELATIVE}
        (?:du|de son) {_RELATIVE}
    """),
    "family",
    "before",
)
_FAMILY_MARKS = Cue((rf"\((?:\w+ )?{_RELATIVE}{_SIDE}\)",), "family", "before", is_mark=True)
_PAST_LIST = Cue(
    table("""
        antecedents?(?: (?:personnels?|medicaux|medical|medico-chirurgicaux|chirurgicaux|chirurgical|notables?
        |obstetricaux|gyneco\\w*))*
        (?:atcds?|tacds?|antcds?)
        dans (?:l'|son |sa )(?:enfance|adolescence)(?= *:)
    """),
    "history",
    "behind",
    lists="all",
    reach=60,
)
_PAST_BEHIND = Cue(
    table(r"""
        (?:deja|anciennement|precedemment|autrefois) (?:ete )?(?:operee?|hospitalisee?|traitee?|presentee?|fait|eu
        |suivie?)
        histoire (?=(?:d|de)\b)
        (?:traitee?|hospitalisee?|operee?|suivie?) (?:par le passe|dans le passe|autrefois)
        avai(?:t|ent) (?:deja )?(?:eu|fait|presente|ete (?:operee?|traitee?|hospitalisee?))
        (?:une?|d'une?|l'|notion d'une?) ?ancien(?:ne)?
        d'ancien(?:ne)?s
        sequelles? (?=(?:d|de)\b)
        status post
        etat post
        post[ -]operatoire d'un ancien
        sevree?s? (?=(?:d|de)\b)
        premier episode (?=(?:d|de)\b)
        lors (?:d'une|de sa|de la) precedente
    """),
    "history",
    "behind",
)
_PAST_EITHER = Cue(table("ancien(?:ne)?s?"), "history", "either", reach=6)
_NO_PLACE = "".join(
    f"(?<!{word} anterieur)"
    for word in ("infarctus", "croise", "paroi", "territoire", "segment", "chambre", "face", "bord", "tibial", "uveite")
)
"""Behind these "antérieur" is where something lies, not when it was."""
_PAST_BEFORE = Cue(
    table(rf"""
        anterieur{_NO_PLACE}e?s?(?= *(?:[,;.]|$|par|en|a |dont|il))
        guerie?s?
        sevree?s?
        dans le passe
    """),
    "history",
    "before",
)
_PAST_AROUND = Cue(
    table(rf"""
        en (?:(?:janvier|fevrier|mars|avril|mai|juin|juillet|aout|septembre|octobre|novembre
        |decembre) )?{_YEAR}(?!.{{0,40}}(?:actuel|sous traitement|depuis|toujours))(?! ?(?:mg|ml|ui|cm))
        il y a (?:[a-z0-9]{{1,12}} ){{1,5}}?(?:ans?|annees)
        dans (?:l'|son |sa )(?:enfance|adolescence|jeunesse|petite enfance)
        (?:a l'age|des l'age) de [0-9]+ ans
        par le passe
        l'an(?:nee)? (?:dernier|derniere|passee?)
        opere(?:e|s)? en {_YEAR}
        traitee?s? en {_YEAR}
    """),
    "history",
    "around",
    reach=12,
)
_PAST_MARKS = Cue((r"s/p\b", rf"\({_YEAR}\)"), "history", "either", reach=8, is_mark=True)

_FINITE = (
    r"(?:est|sont|a(?= (?:ete|eu|une?|des|du|pas|permis|recu|fait|present\w+|montr\w+|benefici\w+|retrouv\w+)\b)|ont"
    r"|etait|etaient|montre|montrent|retrouve|presente|presentent|persiste|persistent|fait|font|reste"
    r"|restent|permet|confirme|consulte|se plaint|decrit|apparait|devient|conduit|s'est|n'est|n'a|justifie|necessite)"
)
FRENCH = Grammar(
    cues=(
        _NONE,
        _DOUBTED,
        _NO_DOUBT,
        _SUPPOSED_LIST,
        _FAMILY_LIST,
        _CHILD,
        _PAST_LIST,
        _NEGATED_LIST,
        _NO_MORE,
        _DENIED,
        _NEGATED_EITHER,
        _NEGATED_BEFORE,
        _NEGATED_BEHIND,
        _NEGATED_NEAR,
        _NEGATED_WORD,
        _SUPPOSED_EITHER,
        _SUPPOSED_BEFORE,
        _SUPPOSED_BEHIND,
        _CONDITION,
        _SUPPOSED_ADJECTIVE,
        _SUPPOSED_AROUND,
        _PAST_AROUND,
        _PAST_BEHIND,
        _PAST_BEFORE,
        _PAST_EITHER,
        _FAMILY_BEFORE,
        _NEGATED_MARKS,
        _NEGATED_SIGNS,
        _SUPPOSED_MARKS,
        _QUESTION,
        _FAMILY_MARKS,
        _PAST_MARKS,
    ),
    barriers={
        "every": any_of(r"""
            ;  \.(?= |$)  =>  ->  →
            mais  toutefois  cependant  neanmoins  en revanche  par contre  pourtant  hormis  sauf  excepte
            a l'exception  a l'exclusion  en dehors  alors qu'?e?  bien que  car  puisqu'?e?  parce qu'?e?
            tandis qu'?e?  ainsi que  dont
        """),
        "negated": any_of(rf"""
            [:()]  \+  (?<!\w)-(?!\w)
            avec  devant  malgre  qui  en raison  du fait  fai(?:t|sant)  evoqu\w+  pourrait  depuis l  a cause  grace a
            sous  apres  \b(?<!pas )(?<!plus )(?<!jamais ){_FINITE}\b
            \b(?<!argument )(?<!arguments )(?<!element )(?<!elements )(?<!negatif )(?<!negative )pour\b
        """),
        "hypothesis": any_of(r"""
            \(  (?<![ :,;][0-9a-e])\)  (?<!\w)-(?!\w)
            \b(?<!rapport )(?<!lien )(?<!compatible )avec\b  devant  malgre  qui  en raison
            compte tenu  un bilan  contexte
        """),
        "family": any_of("""
            patiente?  elle-meme  lui-meme  bien portante?s?  bonne sante  ras
        """),
        "history": any_of("""
            admise?  consult\\w+  etait  est hospitalise\\w*  vue? pour  motive\\w*
            actuel\\w*  ce jour  aujourd'hui  hospitalisee? (?:pour|ce)  adressee?  allergies?  traitement
            depuis  presente (?:un|une|des|ce|depuis)  mode de vie
        """),
    },
    member=r" *(?:d'|d |de |des |du |ou |ni |et d|et de )",
    clause=r" *(?:(?:(?! (?:ou|ni) )[^,;:.]){1,60}\b(?:presente?s?|positi(?:f|ve)s?|oui)(?= *(?:[,;.]|$))|"
    + any_of(rf"""
        avec  mais  une?  l[ae]s?  l'  il  elle  on  ils  je  nous  patient\w*  {_FINITE}  present\w*  au  en  a  apres
        quelques  plusieurs  devant  par  contact  controle  irm  scanner  radio  biopsie  reprise  avis  bilan  appeler
        sat  ta  fc
    """)
    + ")",
    conjunction=r" et ",
    alternative=r"(?:[^,;:.]{1,40},){0,8}[^,;:.]{0,40} (?:ou|ni) ",
    complement=" *(?:"
    + any_of(r"""
        [,;.:)?!(/]  $
        et  ou  mais  a  aux?  en  du  d'  des?  compte  devant  sur  dans  chez  pour  avec  sans  versus  vs  par
    """)
    + ")",
    lists_by_commas=False,
)
