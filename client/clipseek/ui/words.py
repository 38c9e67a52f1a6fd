"""What the page says, in each of its languages. Messages of the server come in English and are shown as they are."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """One language; what stands in braces is filled in where the words are used."""

    language: str
    tagline: str
    model_line: str
    limits_line: str
    limits_more: str
    limit_names: dict[str, str]
    not_reached: str

    collection: str
    collection_hint: str
    tab_search: str
    tab_add: str

    sentence: str
    sentence_hint: str
    drop: str
    drop_hint: str
    query_picture: str
    detach: str
    search: str
    options: str
    top_k: str
    top_k_hint: str
    min_score: str
    min_score_hint: str
    filter: str
    filter_hint: str
    text_weight: str
    picture_weight: str
    weight_hint: str

    searching: str
    found: str
    listed: str
    listed_filtered: str
    nothing_found: str
    nothing_left: str
    empty: str
    truncated: str
    no_weight: str

    rank: str
    score: str
    show: str
    more: str
    more_of: str

    original_of: str
    unshowable: str
    download: str
    delete: str
    delete_sure: str
    delete_yes: str
    delete_no: str
    deleted: str
    deleted_before: str
    close: str
    size: str
    media_type: str
    image_id: str
    sha256: str
    created: str
    updated: str
    metadata: str
    no_metadata: str

    add: str
    add_drop: str
    add_later: str
    add_hint: str
    sending: str
    none_arrived: str
    storing: str
    stored: str
    outcomes: dict[str, str]
    failures: str
    more_failures: str
    stopped: str

    away: str
    busy: str
    slow: str
    forbidden: str
    no_collection: str
    no_picture: str
    bad_filter: str
    bad_picture: str
    bad_collection: str
    bad_value: str
    other_model: str
    picture_lost: str
    failed: str


ENGLISH = Words(
    language="en",
    tagline="Find pictures by a sentence, by a picture, or by both",
    model_line="{dimension} dimensions, {precision}",
    limits_line="Pictures: {formats}; up to {megabytes} MB and {megapixels} megapixels each",
    limits_more="All limits",
    limit_names={
        "max_image_bytes": "Largest picture, bytes",
        "max_image_pixels": "Largest picture, pixels",
        "max_image_side": "Longest side, pixels",
        "max_text_characters": "Longest sentence, characters",
        "context_length": "Of which the model reads, tokens",
        "max_top_k_with_mask": "Most results at a time",
        "max_metadata_bytes": "Largest metadata of a picture, bytes",
        "max_filter_characters": "Longest filter, characters",
    },
    not_reached="The server has not been reached. The page goes on trying.",
    collection="Collection",
    collection_hint="Choose one, or type a new name and add pictures to it",
    tab_search="Search",
    tab_add="Add pictures",
    sentence="Sentence",
    sentence_hint="What should be in the picture? For example: a cat on a sofa",
    drop="Choose a picture",
    drop_hint="or drop or paste it anywhere here",
    query_picture="Search with this picture",
    detach="Search without this picture",
    search="Search",
    options="Options",
    top_k="Results",
    top_k_hint="At most so many",
    min_score="Minimum score",
    min_score_hint="-1 keeps all",
    filter="Filter",
    filter_hint='For example: metadata.album == "summer" and width >= 800',
    text_weight="Weight of the sentence",
    picture_weight="Weight of the picture",
    weight_hint="Counts when there are both; below 0 moves away, 0 leaves it out",
    searching="Searching…",
    found="{count} found in {collection}, in {milliseconds} ms",
    listed="{count} of {total} pictures in {collection}, in the order of their ids. Search to sort them by meaning.",
    listed_filtered="The first {count} pictures in {collection} that pass the filter, in the order of their ids.",
    nothing_found="Nothing found. Lower the minimum score, or loosen the filter.",
    nothing_left="No picture passes this filter.",
    empty="There are no pictures in {collection} yet. Add some under “Add pictures”.",
    truncated="The sentence is longer than the model reads; only its beginning was used.",
    no_weight="Both weights are 0, which leaves nothing to search with. Raise one of them under “Options”.",
    rank="Place {rank}",
    score="Score",
    show="Details of {name}",
    more="More like this",
    more_of="More like {name}",
    original_of="The picture {name}",
    unshowable="The picture cannot be shown: this browser does not know its kind, or it could not be fetched. "
    "Try to download it.",
    download="Download",
    delete="Delete…",
    delete_sure="Delete this picture from {collection} for good?",
    delete_yes="Yes, delete it",
    delete_no="Keep it",
    deleted="Deleted: {name}.",
    deleted_before="{name} was not there any more.",
    close="Close",
    size="Size",
    media_type="Type",
    image_id="Id",
    sha256="SHA-256",
    created="Added",
    updated="Changed",
    metadata="Metadata",
    no_metadata="None.",
    add="Pictures to add to the collection",
    add_drop="Drop them here, or choose them",
    add_later="More can be added when these are stored.",
    add_hint="What is stored already is recognised by its content and left as it is. Keep the page open until all are "
    "stored.",
    sending="Sending: {done} of {total}",
    none_arrived="No file arrived. The page may be out of reach, or a proxy before it finds them too large. Try again.",
    storing="Storing: {done} of {total}",
    stored="Done: {counts}.",
    outcomes={"created": "{count} new", "updated": "{count} updated", "unchanged": "{count} unchanged"},
    failures="Not stored: {count}",
    more_failures="and {count} more",
    stopped="It stopped before the end. What is counted above is stored; adding the same pictures again is safe.",
    away="The server cannot be reached. Try again in a moment; if that does not help, see whether it is running.",
    busy="The server has too much to do. Try again in {seconds} s.",
    slow="The server did not answer in time. Try again.",
    forbidden="The server does not allow this with the token that this page was started with.",
    no_collection="There is no collection {collection} yet. It is made with its first picture: “Add pictures”.",
    no_picture="This picture is not there any more.",
    bad_filter="The filter cannot be used; correct it under “Options”.",
    bad_picture="The picture cannot be used. Choose another one, or save it as JPEG or PNG first.",
    bad_collection="This is no name for a collection. Names begin with a-z, and go on with a-z, 0-9 and _, 63 at most.",
    bad_value="The server refused this.",
    other_model="The collection was made with a model that this server does not have.",
    picture_lost="The file did not arrive, or is no longer kept here. Choose it again.",
    failed="Something went wrong.",
)

CHINESE = Words(
    language="zh-TW",
    tagline="用一句話、一張圖片，或兩者一起來找圖片",
    model_line="{dimension} 維，{precision}",
    limits_line="圖片：{formats}；每張最大 {megabytes} MB、{megapixels} 百萬像素",
    limits_more="所有限制",
    limit_names={
        "max_image_bytes": "圖片大小上限（位元組）",
        "max_image_pixels": "圖片像素上限",
        "max_image_side": "圖片邊長上限（像素）",
        "max_text_characters": "句子長度上限（字元）",
        "context_length": "模型讀取的長度（詞元）",
        "max_top_k_with_mask": "一次最多結果數",
        "max_metadata_bytes": "每張圖片的中繼資料上限（位元組）",
        "max_filter_characters": "篩選條件長度上限（字元）",
    },
    not_reached="無法連上伺服器，本頁會繼續嘗試。",
    collection="圖庫",
    collection_hint="選擇一個，或輸入新名稱再加入圖片",
    tab_search="搜尋",
    tab_add="加入圖片",
    sentence="句子",
    sentence_hint="圖片裡應該有什麼？例如：a cat on a sofa（模型可能只懂英文）",
    drop="選擇圖片",
    drop_hint="或拖放、貼上到此處",
    query_picture="以這張圖片搜尋",
    detach="不用這張圖片搜尋",
    search="搜尋",
    options="選項",
    top_k="結果數",
    top_k_hint="最多顯示幾張",
    min_score="最低分數",
    min_score_hint="-1 表示不限",
    filter="篩選條件",
    filter_hint='例如：metadata.album == "summer" and width >= 800',
    text_weight="句子的權重",
    picture_weight="圖片的權重",
    weight_hint="兩者都有時才有作用；小於 0 表示遠離，0 表示不用",
    searching="搜尋中…",
    found="在 {collection} 找到 {count} 張，費時 {milliseconds} 毫秒",
    listed="{collection} 共有 {total} 張圖片，依識別碼順序顯示 {count} 張。搜尋後會依相似度排列。",
    listed_filtered="{collection} 中符合篩選條件的前 {count} 張圖片，依識別碼順序排列。",
    nothing_found="找不到圖片。請降低最低分數，或放寬篩選條件。",
    nothing_left="沒有圖片符合這個篩選條件。",
    empty="{collection} 還沒有圖片。請到「加入圖片」加入。",
    truncated="句子超過模型能讀的長度，只用了開頭的部分。",
    no_weight="兩個權重都是 0，沒有可以用來搜尋的內容。請在「選項」調高其中一個。",
    rank="第 {rank} 名",
    score="分數",
    show="{name} 的詳細資料",
    more="找相似圖片",
    more_of="找與 {name} 相似的圖片",
    original_of="圖片 {name}",
    unshowable="無法顯示這張圖片：瀏覽器不支援這種格式，或無法取得原圖。請試著下載。",
    download="下載",
    delete="刪除…",
    delete_sure="要從 {collection} 永久刪除這張圖片嗎？",
    delete_yes="確定刪除",
    delete_no="保留",
    deleted="已刪除：{name}。",
    deleted_before="{name} 早已不在了。",
    close="關閉",
    size="尺寸",
    media_type="類型",
    image_id="識別碼",
    sha256="SHA-256",
    created="加入時間",
    updated="變更時間",
    metadata="中繼資料",
    no_metadata="無。",
    add="要加入圖庫的圖片",
    add_drop="拖放到此處，或選擇檔案",
    add_later="這些圖片儲存完成後，才能再新增。",
    add_hint="已經存在的圖片會依內容辨識，並保持原樣。全部儲存完成前，請勿關閉本頁。",
    sending="傳送中：{done}／{total}",
    none_arrived="檔案都沒有送達。可能無法連上本頁，或中間的代理伺服器認為檔案太大。請再試一次。",
    storing="儲存中：{done}／{total}",
    stored="完成：{counts}。",
    outcomes={"created": "新增 {count} 張", "updated": "更新 {count} 張", "unchanged": "未變更 {count} 張"},
    failures="未儲存：{count} 張",
    more_failures="另外還有 {count} 張",
    stopped="中途停止。以上計入的圖片都已儲存；重新加入同樣的圖片也不會重複。",
    away="無法連上伺服器。請稍後再試；若仍然不行，請確認伺服器是否正在執行。",
    busy="伺服器太忙了。請在 {seconds} 秒後再試。",
    slow="伺服器沒有及時回應。請再試一次。",
    forbidden="啟動本頁面時所用的權杖，不允許這項操作。",
    no_collection="還沒有名為 {collection} 的圖庫。加入第一張圖片時就會建立：「加入圖片」。",
    no_picture="這張圖片已經不在了。",
    bad_filter="篩選條件無法使用，請在「選項」修正。",
    bad_picture="這張圖片無法使用。請換一張，或先另存為 JPEG 或 PNG。",
    bad_collection="這不是有效的圖庫名稱。名稱以 a-z 開頭，其餘為 a-z、0-9 與 _，最多 63 個字元。",
    bad_value="伺服器拒絕了這個要求。",
    other_model="這個圖庫是用伺服器沒有載入的模型建立的。",
    picture_lost="檔案沒有送達，或已不在這裡，請重新選擇。",
    failed="發生錯誤。",
)

LANGUAGES = (ENGLISH, CHINESE)


def preferred(accept_language: str) -> Words:
    """The language for a browser's ``Accept-Language``: the first of its choices that we have, or else English.

    Whoever reads Chinese in any form gets Traditional Chinese.
    """
    for wanted in _by_preference(accept_language):
        for words in LANGUAGES:
            if wanted.split("-")[0] == words.language.split("-")[0]:
                return words
    return ENGLISH


def _by_preference(accept_language: str) -> Iterable[str]:
    choices = []
    for part in accept_language.split(","):
        language, *parameters = (each.strip() for each in part.split(";"))
        try:
            quality = float(parameters[0].removeprefix("q=")) if parameters else 1.0
        except ValueError:
            continue
        if quality > 0:
            choices.append((quality, language.lower()))
    return [language for _, language in sorted(choices, key=lambda choice: -choice[0])]
